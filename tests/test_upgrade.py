"""Checkpoints of version 1 compute, are tested and are labelled as they were."""

import copy
import shutil

import pytest
import torch
from helpers import make_objective

import export_teacher
import test as test_program
from models import load_model
from models.objective import pack_heads
from models.students import build_student
from utils import checkpoint, results
from utils.checkpoint import read_model
from utils.errors import ConfigError

pytestmark = pytest.mark.usefixtures("undrawn")
# What version 1 wrote: of the resolved configuration, all groups that are the same in every file.
COMMON = {
    "init": None,
    "optim": {"name": "sgd", "lr": 0.05, "final_lr": 0.001, "momentum": 0.9, "clip": None},
    "train": {"epochs": 2, "batch_size": 16, "seed": 3, "amp": "none"},
    "protocol": {"val_fraction": 0.0, "val_seed": 0},
    "run": {"name": None, "device": "cpu", "runs": "expt/runs", "restart": False},
}
DISTILL = {
    "bank": "bank.h5",
    "method": "pointmcd",
    "pooling": "visible",
    "distance": "l1",
    "visibility": "stored",
    "views": None,
    "shuffle_codes": False,
}
LOSS = {"task": 0.1, "distill": 1.0, "transform": 0.001}
CONTROLS = {"distance": "l2", "views": 4, "visibility": "random", "shuffle_codes": True}


def old_student(content: dict, loss: dict = LOSS, **distill) -> dict:
    """A student of version 2 as version 1 had it, with other words of its training."""
    settings = {"task": content["build"]["task"], "encoder": "pointnet", "head": "default"}
    data = {key: content["config"]["data"][key] for key in ("name", "root", "points")}
    head = content["heads"].get("alignment", {"state": {}})["state"]
    state = {name.replace("head.", "projection.", 1): value for name, value in head.items()}
    distilled = bool(loss.get("distill"))
    return old(
        content,
        {
            "data": data,
            "student": {**settings, "sampling": "farthest", "smoothing": 0.1},
            "distill": DISTILL | distill,
            "loss": loss,
        },
        build=content["build"] | {"projection": distilled},
        model=content["model"] | (state if distilled else {}),
    )


def old_teacher(content: dict, loss: dict) -> dict:
    """A teacher of version 2 as version 1 had it."""
    build, data = content["build"], content["config"]["data"]
    settings = {key: build[key] for key in ("task", "backbone", "normalise")}
    names = {"name", "root", "size"}
    data = {key: data[key] for key in names} | {"resident": "auto", "balanced": True, "views": 1}
    teacher = {**settings, "weights": "none", "smoothing": 0.3}
    return old(content, {"data": data, "teacher": teacher, "loss": loss})


def old(content: dict, config: dict, **changes) -> dict:
    training = {k: v for k, v in content["training"].items() if k not in ("method", "labelled")}
    kept = {key: content[key] for key in ("format", "role", "build", "classes", "model")}
    found = kept | {"version": 1, "config": COMMON | config, "training": training} | changes
    return copy.deepcopy(found)


@pytest.fixture
def distilled_before(distilled) -> dict:
    return old_student(read_model(distilled))


@torch.no_grad()
def answers(path, *inputs, **more) -> dict[str, torch.Tensor]:
    output = load_model(path)(*inputs, **more)
    return {name: value for name, value in vars(output).items() if isinstance(value, torch.Tensor)}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def row_of(path, folder) -> results.Result:
    """The row of a test."""
    arguments = ["--results", str(folder / "r.csv"), "--pictures", str(folder), "--device", "cpu"]
    test_program.main([str(path), *arguments])
    return results.read(folder / "r.csv")[-1]


def cloud() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 100, 3) * 2 - 1, torch.rand(2, 100, 12) < 0.3


def test_a_distilled_student_is_what_it_was(distilled, distilled_before, tmp_path):
    path = tmp_path / "before.pth"
    checkpoint.save(path, distilled_before)
    points, visibility = cloud()
    found = answers(path, points, visibility=visibility)
    assert {"logits", "view_codes", "seen"} <= found.keys()
    assert same(found, answers(distilled, points, visibility=visibility))
    row, now = row_of(path, tmp_path), row_of(distilled, tmp_path)
    assert (row.overall, row.mean_class) == (now.overall, now.mean_class)
    assert (row.method, row.model, row.points, row.seed) == ("pointmcd", "pointnet", 128, 3)
    assert row.recipe == "transform 0.001 task 0.1 alignment 1; sgd 0.05, batch 16"
    assert row.recipe == now.recipe and row.checkpoint == now.checkpoint
    config = read_model(path)["config"]
    assert config["terms"]["task"]["smoothing"] == 0.1
    assert config["optim"]["min_lr"] == 0.001 and config["run"]["dir"] == "expt/runs"


def test_a_baseline_is_one_whatever_would_have_taught_it(distilled, tmp_path):
    path, loss = tmp_path / "before.pth", LOSS | {"distill": 0.0}
    checkpoint.save(path, old_student(read_model(distilled), loss, **CONTROLS))
    points, visibility = cloud()
    assert same(answers(path, points), answers(distilled, points))
    with pytest.raises(ConfigError, match="was not trained with terms.alignment"):
        load_model(path)(points, visibility=visibility)
    row = row_of(path, tmp_path)
    assert row.method == "baseline"
    assert row.recipe == "transform 0.001 task 0.1; sgd 0.05, batch 16"


def test_controls_and_what_learnt_no_labels_are_told(distilled, refused, tmp_path):
    path = tmp_path / "before.pth"
    checkpoint.save(path, old_student(read_model(distilled), **CONTROLS))
    row = row_of(path, tmp_path)
    assert row.method == "pointmcd, l2, visibility random, 4 views, shuffled codes"
    assert read_model(path)["config"]["targets"]["shuffle"] == "all"
    checkpoint.save(path, old_student(read_model(distilled), {"task": 0.0, "distill": 1.0}))
    assert "trained without labels" in refused(test_program.main, [path], 2)


def test_a_student_of_the_code_of_the_shape_keeps_its_head(tmp_path):
    torch.manual_seed(0)
    build = {"encoder": "pointnet", "num_classes": 4, "task": "segmentation", "num_categories": 3}
    student = build_student(**build)
    objective = make_objective(student, {"alignment": 1.0}, alignment={"pooling": "global"})
    data = {"name": "Tiny", "root": "data", "points": 100}
    content = {"role": "student", "build": build, "classes": ["a", "b", "c"], "training": {}}
    content |= {"format": checkpoint.FORMAT, "config": {"data": data}}
    content |= {"model": student.state_dict(), "heads": pack_heads(objective.terms)}
    checkpoint.save(tmp_path / "now.pth", {**content, "version": 2})
    checkpoint.save(tmp_path / "before.pth", old_student(content, pooling="global"))
    points, visibility = cloud()
    inputs = points, torch.tensor([2, 0])
    found = answers(tmp_path / "before.pth", *inputs, visibility=visibility)
    assert same(found, answers(tmp_path / "now.pth", *inputs, visibility=visibility))
    assert set(read_model(tmp_path / "before.pth")["heads"]["alignment"]["fields"]) == {"codes"}


def test_first_checkpoints_lack_what_had_one_value(distilled, tmp_path):
    """The task, the sampling, and the parts of the method that were exchanged later."""
    content = old_student(read_model(distilled))
    for key in ("task", "num_categories", "sampling"):
        del content["build"][key]
    for key in ("pooling", "distance", "visibility", "views", "shuffle_codes"):
        del content["config"]["distill"][key]
    del content["config"]["student"]["smoothing"]
    checkpoint.save(tmp_path / "first.pth", content)
    points, visibility = cloud()
    found = answers(tmp_path / "first.pth", points, visibility=visibility)
    assert same(found, answers(distilled, points, visibility=visibility))
    content = read_model(tmp_path / "first.pth")
    assert content["training"]["method"] == ["pointmcd"]
    assert content["config"]["terms"]["task"]["smoothing"] == 0.2


@pytest.mark.slow
def test_a_teacher_is_what_it_was_and_so_is_its_bank(workshop, tmp_path, capfd):
    path, bank = tmp_path / "teacher.pth", tmp_path / "bank.h5"
    checkpoint.save(path, old_teacher(read_model(workshop.teacher), {"shape": 1.0, "view": 0.5}))
    views = torch.randint(0, 256, (2, 3, 1, 32, 32), dtype=torch.uint8)
    assert same(answers(path, views), answers(workshop.teacher, views))
    row, now = row_of(path, tmp_path), row_of(workshop.teacher, tmp_path)
    assert (row.method, row.overall, row.checkpoint) == ("-", now.overall, now.checkpoint)
    assert row.recipe == "task 1 views 0.5; sgd 0.05, batch 16"
    config = read_model(path)["config"]
    assert config["data"]["class_balanced"] and config["data"]["cache_on_device"] == "auto"
    assert [term["smoothing"] for term in config["terms"].values()] == [0.3, 0.3]
    shutil.copy(workshop.bank, bank)
    export_teacher.main([str(path), "--output", str(bank), "--device", "cpu"])
    assert "already the export of this teacher" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("task", ["autoencoder", "segmentation"])
def test_teachers_of_pixels_are_what_they_were(workshop, pixel_teachers, task, tmp_path):
    now = pixel_teachers[task == "segmentation"]
    path = tmp_path / now.name
    checkpoint.save(path, old_teacher(read_model(now), {"pixel": 1.0}))
    views = torch.randint(0, 256, (2, 2, 1, 16, 16), dtype=torch.uint8)
    inputs = views, torch.tensor([3, 0])
    assert same(answers(path, *inputs), answers(now, *inputs))
    content, kept = read_model(path), tmp_path / "predictions" / f"{now.stem}.npz"
    if task == "autoencoder":
        assert list(content["config"]["terms"]) == ["reconstruction"]
        assert not content["training"]["labelled"]
        test_program.main([str(path), "--results", str(tmp_path / "r.csv"), *pictures(tmp_path)])
        assert kept.is_file() and not (tmp_path / "r.csv").exists()
    else:
        row = row_of(path, tmp_path)
        assert row.recipe == "pixels 1; sgd 0.05, batch 16"
        metrics = content["training"]["metrics"]
        assert row.instance_miou == pytest.approx(metrics["eval/instance_miou"], abs=0.1)


def pictures(folder) -> list[str]:
    return ["--pictures", str(folder), "--device", "cpu"]


DAMAGES = {
    "no configuration": lambda content: content.pop("config"),
    "no losses": lambda content: content["config"].pop("loss"),
    "losses in a list": lambda content: content["config"].update(loss=[1.0]),
    "no method": lambda content: content["config"]["distill"].pop("method"),
    "no group": lambda content: content["config"].pop("optim"),
    "a group in words": lambda content: content["config"].update(run="somewhere"),
    "no training": lambda content: content.pop("training"),
    "no classes": lambda content: content.pop("classes"),
    "no role": lambda content: content.pop("role"),
    "no weights": lambda content: content.pop("model"),
    "weights in a list": lambda content: content.update(model=[]),
    "half a projection": lambda content: content["model"].pop("projection.linear.weight"),
    "no projection": lambda content: [
        content["model"].pop(name) for name in list(content["model"]) if "projection" in name
    ],
    "another width": lambda content: content["model"].update(
        {"projection.linear.weight": torch.zeros(8, 1024)}
    ),
    "a projection of nobody": lambda content: content["build"].update(projection=False),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_refused(distilled_before, refused, damage, tmp_path):
    DAMAGES[damage](distilled_before)
    path = tmp_path / "damaged.pth"
    checkpoint.save(path, distilled_before)
    assert "damaged.pth" in refused(lambda words: load_model(words[0]), [path], 3)
