"""Converted checkpoints compute what the published networks do; what does not fit is refused."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, slow_if
from torch import nn

import test
import train_student
from models import load_model
from models.release.convert import convert as convert_state
from models.release.networks import RELEASES
from models.release.tables import expand, read_table
from scripts import convert_release
from scripts.reference import (
    curvenet,
    dgcnn,
    pointmcd_students,
    pointmcd_teachers,
    pointmlp,
    pointnet2,
    pointnext,
)
from utils import results
from utils.checkpoint import read_model
from utils.errors import DataError

STUDENTS = {
    "PointNet_Cls_Distiller": pointmcd_students.PointNetCls,
    "DGCNN_Cls_Distiller": pointmcd_students.DGCNNCls,
    "PointNet_Seg_Distiller": pointmcd_students.PointNetSeg,
    "DGCNN_Seg_Distiller": pointmcd_students.DGCNNSeg,
    "CurveNet_cls": curvenet.CurveNet,
    "yanx27_pointnet2_cls_ssg": pointnet2.Classification,
    "yanx27_pointnet2_cls_msg": lambda *sizes: pointnet2.Classification(True, *sizes),
    "yanx27_pointnet2_part_seg_ssg": lambda *sizes: pointnet2.PartSegmentation(False, *sizes),
    "yanx27_pointnet2_part_seg_msg": lambda *sizes: pointnet2.PartSegmentation(True, *sizes),
}
RELATED = {
    "PointMLP_ModelNet40": pointmlp.PointMLP,
    "PointMLP_ScanObjectNN": partial(pointmlp.PointMLP, 15),
    "PointMLP_elite_ModelNet40": pointmlp.elite,
    "PointMLP_elite_ScanObjectNN": partial(pointmlp.elite, 15),
    "PointNeXt_S_ModelNet40": pointnext.PointNeXt,
    "PointNeXt_S64_ModelNet40": partial(pointnext.PointNeXt, width=64),
    "PointNeXt_S_ScanObjectNN": partial(pointnext.PointNeXt, 15, inputs=4),
    "DGCNN_ModelNet40": dgcnn.DGCNN,
}
QUICK = {"PointMLP_elite_ModelNet40", "PointNeXt_S_ScanObjectNN", "DGCNN_ModelNet40"}
STUDENTS |= RELATED
TEACHERS = {
    "Teacher_Cls": pointmcd_teachers.TeacherCls,
    "CNN_Backbone_Pretrainer": pointmcd_teachers.BackbonePretrainer,
    "Teacher_Seg": pointmcd_teachers.TeacherSeg,
}
PUBLISHED = STUDENTS | TEACHERS
POINTS = {"DGCNN_Cls_Distiller": 64, "DGCNN_Seg_Distiller": 64, "CurveNet_cls": 1024}
POINTS["DGCNN_ModelNet40"] = 64
KEYS = ROOT.parent / "shared" / "release_keys.json"
RELATED_KEYS = KEYS.with_name("related_keys.json")


def scattered(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights as of no training at all: nothing is 0 or 1, some scales are negative."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=generator)
        elif value.dim() > 1:
            value.normal_(0, (1.5 / value[0].numel()) ** 0.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.5, generator=generator)
            if name.endswith("weight"):
                value += value.sign()
    return network.eval().requires_grad_(False)


def convert(state, folder: Path, *arguments: str) -> Path:
    source, target = folder / "in.pth", folder / "out.pth"
    torch.save(state, source)
    convert_release.main([str(source), str(target), *arguments])
    return target


def shapes(name: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {key: list(value.shape) for key, value in PUBLISHED[name]().state_dict().items()}


def same(output, expected: dict[str, torch.Tensor]) -> None:
    for name, values in expected.items():
        found = getattr(output, name)
        assert found.shape == values.shape, name
        assert float(values.std()) > 1e-3, f"{name} hardly varies: nothing is compared"
        error = (found - values).abs().max() / values.abs().max()
        assert error < 2e-5, f"{name}: {float(error):.1e} of the largest value"


def cloud(name: str, batch: int = 2):
    generator = torch.Generator().manual_seed(1)
    count = POINTS.get(name, 600)
    points = torch.randn(batch, count, 3, generator=generator)
    points = points / points.norm(dim=2).amax(dim=1)[:, None, None]
    visibility = torch.rand(batch, count, 3, generator=generator) < 0.3
    visibility[0, :, 1] = False  # a view that sees nothing
    category = torch.tensor([3, 0])[:batch]
    return points, visibility, category


@pytest.mark.parametrize(
    "name",
    [slow_if(not name.startswith("PointNet") and name not in QUICK, name) for name in STUDENTS],
)
def test_a_converted_student_is_the_published_one(name, tmp_path):
    published = scattered(STUDENTS[name]())
    student = load_model(convert(published.state_dict(), tmp_path))
    points, visibility, category = cloud(name)
    expected = published(points, visibility.float(), category)
    told = category if student.task == "segmentation" else None
    named = {key: value for key, value in expected.items() if key != "view_codes"}
    same(student(points, category=told, visibility=None), named)
    if "view_codes" in expected:
        for dtype in (torch.bool, torch.float32):  # others store 0 and 1
            same(student(points, category=told, visibility=visibility.to(dtype)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEACHERS)
def test_a_converted_teacher_is_the_published_one(name, tmp_path):
    published = scattered(TEACHERS[name]())
    teacher = load_model(convert(published.state_dict(), tmp_path))
    # the published autoencoder makes images of 224 pixels whatever it is given
    batch, side = (1, 224) if name == "CNN_Backbone_Pretrainer" else (2, 64)
    views = torch.rand(batch, 2, 3, side, side, generator=torch.Generator().manual_seed(2))
    category = torch.tensor([15, 4])[:batch]
    same(teacher(views, category=category), published(views, category))


@pytest.mark.parametrize(
    ("name", "sizes", "names"),
    [
        ("PointNet_Cls_Distiller", (7,), 7),
        ("yanx27_pointnet2_cls_msg", (11,), 11),
        slow_if(True, "Teacher_Cls", (15,), 15),
        ("PointNet_Seg_Distiller", (9, 4), 4),
        ("yanx27_pointnet2_part_seg_ssg", (9, 4), 4),
        slow_if(True, "Teacher_Seg", (9, 4), 4),
    ],
)
def test_sizes_are_read_from_the_shapes(name, sizes, names, tmp_path):
    path = convert(scattered(PUBLISHED[name](*sizes)).state_dict(), tmp_path)
    content = read_model(path)
    assert content["build"]["num_classes"] == sizes[0]
    assert content["build"]["num_categories"] == (sizes[1] if len(sizes) > 1 else 0)
    assert content["classes"] == [f"class_{place}" for place in range(names)]


def test_the_checkpoint_says_whose_weights_it_holds(tmp_path):
    path = convert(scattered(pointmcd_students.PointNetSeg()).state_dict(), tmp_path)
    content = read_model(path, "student")
    assert content["classes"][:2] == ["Airplane", "Bag"] and len(content["classes"]) == 16
    assert content["config"]["data"]["name"] == "ShapeNetPart"
    assert content["config"]["data"]["points"] == 2048
    parts = content["training"]["part_names"]
    assert sum(map(len, parts.values())) == content["build"]["num_classes"]
    released = content["training"]["released"]
    assert released["network"] == "PointNet_Seg_Distiller" and released["file"] == "in.pth"
    assert "PointMCD" in released["source"] and len(released["sha256"]) == 64
    assert content["training"]["method"] == ["pointmcd"] and content["training"]["labelled"]
    assert set(content["heads"]) == {"alignment"}
    assert content["heads"]["alignment"]["state"].keys() >= {"head.linear.weight", "head.norm.bias"}
    assert not any("projection" in name or "heads" in name for name in content["model"])
    path = convert(scattered(pointnet2.Classification()).state_dict(), tmp_path)
    content = read_model(path, "student")
    assert content["training"]["method"] == ["baseline"] and content["heads"] == {}


def wrapped(state):
    return {"epoch": 3, "instance_acc": np.float64(0.9), "model_state_dict": state}


@pytest.mark.parametrize(
    "disguise",
    [
        wrapped,
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
        lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
    ],
    ids=["wrapper", "DataParallel", "without counters", "double precision"],
)
def test_the_forms_in_which_files_come(disguise, tmp_path):
    state = scattered(pointnet2.Classification()).state_dict()
    converted = load_model(convert(disguise(state), tmp_path)).state_dict()
    plain = load_model(convert(state, tmp_path)).state_dict()
    for key, value in plain.items():
        torch.testing.assert_close(converted[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("container", ["net", "model"])
def test_containers_of_related_releases(container, tmp_path):
    """As their training scripts save them, with the numbers of a run beside the weights."""
    state = scattered(RELATED["PointMLP_elite_ScanObjectNN"]()).state_dict()
    content = {container: {f"module.{key}": value for key, value in state.items()}}
    path = convert(content | {"best_test_acc": np.float64(84.1), "epoch": 299}, tmp_path)
    build = read_model(path)["build"]
    assert (build["encoder"], build["num_classes"]) == ("pointmlp_elite", 15)
    assert build["sampling"] == "off_origin"


@pytest.mark.parametrize(
    ("sizes", "encoder"),
    [
        ((40, 64, 3), "pointnext_s64"),
        ((15, 32, 4), "pointnext_s_height"),
        ((9, 48, 4), "pointnext_s"),
    ],
)
def test_width_and_inputs_of_pointnext_are_read_from_the_shapes(sizes, encoder, tmp_path):
    classes, width, inputs = sizes
    path = convert(scattered(pointnext.PointNeXt(*sizes)).state_dict(), tmp_path)
    build = read_model(path)["build"]
    assert build["encoder"] == encoder
    assert build["options"] == {"width": width, "inputs": inputs, "up": 1}
    student = load_model(path)
    output = student(cloud("")[0])
    assert output.logits.shape == (2, classes) and output.global_feature.shape == (2, 16 * width)


def test_inputs_that_pointnext_has_not_are_refused(tmp_path):
    state = scattered(pointnext.PointNeXt()).state_dict()
    state["encoder.encoder.0.0.convs.0.0.weight"] = torch.ones(32, 7, 1)
    with pytest.raises(DataError, match=r"convs.0.0.weight \(32, 7, 1\) for \(32, 3\)"):
        convert(state, tmp_path)


@torch.no_grad()
def test_a_height_at_hand_is_taken_as_it_is(tmp_path):
    """That of the whole scan, say, of which the cloud is a part."""
    student = load_model(convert(scattered(pointnext.PointNeXt(15, 32, 4)).state_dict(), tmp_path))
    points, _, _ = cloud("")
    height = points[..., 1:2] - points[..., 1:2].amin(dim=1, keepdim=True)
    own = student(points).logits
    torch.testing.assert_close(student(torch.cat([points, height], dim=2)).logits, own)
    assert not torch.allclose(student(torch.cat([points, height + 0.1], dim=2)).logits, own)


@torch.no_grad()
def test_pointmlp_never_samples_near_the_origin(tmp_path):
    published = scattered(pointmlp.elite())
    student = load_model(convert(published.state_dict(), tmp_path))
    points, _, _ = cloud("")
    points[:, 100:140] *= 0.03 / points[:, 100:140].norm(dim=2, keepdim=True)
    output = student(points)
    same(output, published(points))
    student.encoder.sampling = "farthest"
    assert not torch.allclose(student(points).logits, output.logits, rtol=1e-3)


def test_copies_in_a_file_must_agree(tmp_path):
    state = scattered(dgcnn.DGCNN()).state_dict()
    alone = {key: value for key, value in state.items() if not re.match("conv[1-5].1", key)}
    found = load_model(convert(alone, tmp_path)).state_dict()
    assert all(
        map(torch.equal, found.values(), load_model(convert(state, tmp_path)).state_dict().values())
    )
    state["bn2.bias"] = state["bn2.bias"] + 1
    with pytest.raises(DataError, match="unlike their copies: bn2.bias"):
        convert(state, tmp_path)


def lacking(state):
    del state["classifier.weight"], state["encoder.encoder.bn2.bias"]
    return ["classifier.weight", "encoder.encoder.bn2.bias", "missing"]


def superfluous(state):
    state["encoder.encoder.conv4.weight"] = torch.zeros(3)
    return ["encoder.encoder.conv4.weight", "unexpected"]


def misshapen(state):
    state["encoder.encoder.conv3.weight"] = torch.zeros(1024, 64, 1)
    return ["encoder.encoder.conv3.weight (1024, 64, 1) for (1024, 128)"]


def misplaced(state):
    state["encoder.encoder.conv1.bias"] = torch.zeros(64, 1)
    state["classifier.weight"] = torch.zeros(())
    return ["classifier.weight ()", "of another shape"]


def broken(state):
    state["encoder.encoder.conv3.bias"][7] = torch.nan
    return ["encoder.encoder.conv3.bias", "not finite"]


@pytest.mark.parametrize("damage", [lacking, superfluous, misshapen, misplaced, broken])
def test_what_does_not_fit_is_refused_by_name(damage, tmp_path):
    state = scattered(pointmcd_students.PointNetCls()).state_dict()
    words = [*damage(state), "PointNet_Cls_Distiller"]
    with pytest.raises(DataError) as error:
        convert(state, tmp_path)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_missing_entry_is_one_too_many(name):
    state = {key: torch.zeros(shape) for key, shape in shapes(name).items()}
    key = next(key for key in reversed(state) if key.endswith("weight"))
    del state[key]
    with pytest.raises(DataError, match=f"missing: {re.escape(key)}(;|$)"):
        convert_state(state, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_half_a_file_is_refused_with_every_missing_name(name):
    full = {key: torch.zeros(shape) for key, shape in shapes(name).items()}
    gone = [key for key in list(full)[::2] if not key.endswith("num_batches_tracked")]
    state = {key: value for key, value in full.items() if key not in gone}
    with pytest.raises(DataError) as error:
        convert_state(state, name)
    listed = re.search("missing: ([^;]*)", str(error.value))[1].split(", ")
    if name == "DGCNN_ModelNet40":  # where one of two copies is left, nothing is missing
        copies = {re.sub(r"conv(\d).1.", r"bn\1.", key): key for key in gone}
        left = {key for copy, key in copies.items() if copy in state}
        doubled = {key for key in gone if re.match(r"bn[1-5]\.", key)}
        gone = set(gone) - left - doubled
    assert sorted(listed) == sorted(gone)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (nn.Linear(2, 2), "Python objects"),
        (nn.Linear(2, 2).state_dict(), "none of the networks"),
        ({"weights": nn.Linear(2, 2).state_dict()}, "no state dict"),
        ([torch.zeros(2)], "found list"),
        ({}, "no state dict"),
    ],
    ids=["a module", "a stranger", "an unknown wrapper", "a list", "nothing"],
)
def test_other_files_are_refused(content, says, tmp_path):
    with pytest.raises(DataError, match=says):
        convert(content, tmp_path)


def test_a_truncated_file_and_a_converted_one_are_refused(tmp_path):
    path = convert(scattered(pointnet2.Classification()).state_dict(), tmp_path)
    with pytest.raises(DataError, match="already"):
        convert_release.main([str(path), str(tmp_path / "again.pth")])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="damaged"):
        convert_release.main([str(path), str(tmp_path / "again.pth")])


def test_a_published_encoder_starts_a_run(workshop, tmp_path):
    path = convert(scattered(pointmcd_students.PointNetCls()).state_dict(), tmp_path)
    arguments = workshop.student_arguments(
        "from_release", "terms.alignment.weight=0", f"init={path}"
    )
    train_student.main([*arguments, "train.epochs=1", "optim.lr=1e-9"])
    start, trained = read_model(path)["model"], read_model(workshop.student("from_release"))
    key = "encoder.rest.linears.1.weight"
    torch.testing.assert_close(trained["model"][key], start[key], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_a_published_network_is_tested_as_it_is(workshop, tmp_path):
    classes = read_model(workshop.teacher)["classes"]
    (tmp_path / "names.txt").write_text("\n".join(classes))
    state = scattered(pointmcd_students.PointNetCls(len(classes))).state_dict()
    path = convert(state, tmp_path, "--classes", str(tmp_path / "names.txt"))
    assert read_model(path)["classes"] == classes
    arguments = ["--data", "Tiny", "--root", str(workshop.root), "--points", "64"]
    arguments += ["--device", "cpu", "--threads", "1"]
    arguments += ["--results", str(tmp_path / "results.csv"), "--pictures", str(tmp_path)]
    test.main([str(path), *arguments])
    (row,) = results.read(tmp_path / "results.csv")
    assert (row.model, row.method, row.protocol) == ("pointnet", "pointmcd", "released weights")
    assert row.recipe == "released, https://github.com/keeganhk/PointMCD"
    assert (tmp_path / "predictions" / "out_Tiny_test_64points.npz").is_file()


def test_a_name_may_hold_spaces(tmp_path):
    (tmp_path / "names.txt").write_text("night stand\n\nchair\ntable \n")
    state = scattered(pointmcd_students.PointNetCls(3)).state_dict()
    path = convert(state, tmp_path, "--classes", str(tmp_path / "names.txt"))
    assert read_model(path)["classes"] == ["night stand", "chair", "table"]


def test_a_list_of_other_classes_is_refused(tmp_path):
    (tmp_path / "names.txt").write_text("chair\nchair\ntable\n")
    state = scattered(pointmcd_students.PointNetCls(3)).state_dict()
    with pytest.raises(DataError, match="2 different names on 3 lines"):
        convert(state, tmp_path, "--classes", str(tmp_path / "names.txt"))
    with pytest.raises(DataError, match="cannot be read"):
        convert(state, tmp_path, "--classes", str(tmp_path / "nowhere.txt"))


def test_tables_name_every_layer_once():
    assert expand("a.{b,c}.{0,1}") == ["a.b.0", "a.b.1", "a.c.0", "a.c.1"]
    for release in RELEASES:
        table = read_table(release.table)
        assert len(set(table.values())) == len(table), release.name


@pytest.mark.skipif(not KEYS.is_file(), reason="the list of the releases' keys is not here")
def test_the_plain_networks_have_the_published_keys():
    groups = [group for group in json.loads(KEYS.read_text()).values() if isinstance(group, dict)]
    listed = {name: keys for group in groups for name, keys in group.items()}
    assert listed.keys() == PUBLISHED.keys() - RELATED.keys()
    for name, keys in listed.items():
        assert shapes(name) == keys, name


@pytest.mark.skipif(not RELATED_KEYS.is_file(), reason="the list of related keys is not here")
def test_the_plain_related_networks_have_the_published_keys():
    listed = json.loads(RELATED_KEYS.read_text())
    prefix = {name: kind["prefix"] for name, kind in listed["notes"]["prefix"].items()}
    for group in ("PointMLP", "PointNeXt"):
        for name, keys in listed[group].items():
            if name in RELATED:
                plain = {key.removeprefix(prefix[name]): shape for key, shape in keys.items()}
                assert shapes(name) == plain, name
