"""Networks of timm: frozen ones as teachers, and as backbones that are trained."""

import sys

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import slow_if
from safetensors.torch import save_file
from torch import nn

import export_teacher
import train_teacher
from data.bank import Bank
from data.storage import open_split
from models import load_model
from models.images.frozen import FrozenTeacher
from models.images.teachers import build_backbone, build_teacher
from models.images.timm_backbone import TimmBackbone
from utils.checkpoint import read_model
from utils.device import seed_everything
from utils.errors import ConfigError, DataError

VIEWS = torch.randint(
    0, 256, (2, 3, 1, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.mark.parametrize(
    ("name", "size", "expected_size", "mean"),
    [
        ("test_efficientnet", None, 160, 0.485),
        ("test_efficientnet", 40, 40, 0.485),
        ("test_vit", None, 160, 0.5),
        ("test_vit", 64, 64, 0.5),  # its position embeddings are resampled
        ("timm/test_convnext", 96, 96, 0.5),
        ("test_mambaout", 96, 96, 0.485),  # a layer stands behind its pooling
    ],
)
def test_a_frozen_teacher_gives_timms_own_features(name, size, expected_size, mean):
    torch.manual_seed(0)
    teacher = FrozenTeacher(name, "none", size)
    out = teacher(VIEWS)
    network = teacher.backbone.network
    images = VIEWS.flatten(0, 1).expand(-1, 3, -1, -1).float() / 255
    images = F.interpolate(images, (expected_size,) * 2, mode="bilinear", antialias=True)
    config = network.pretrained_cfg
    assert config["mean"][0] == mean
    deviation = torch.tensor(config["std"]).view(3, 1, 1)
    images = (images - torch.tensor(config["mean"]).view(3, 1, 1)) / deviation
    features = network.forward_head(network.forward_features(images), pre_logits=True)
    assert out.view_codes.shape == (2, 3, teacher.backbone.channels)
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(out.view_codes, features.view(2, 3, -1), **close)
    torch.testing.assert_close(out.code, out.view_codes.mean(dim=1))
    assert set(out.arrays()) == {"view_codes", "codes"}


def test_a_frozen_teacher_stays_frozen():
    teacher = FrozenTeacher("test_resnet", "none", 32)
    term = nn.ModuleList([teacher, nn.BatchNorm1d(2)]).train()
    assert term[1].training and not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert not teacher(VIEWS).code.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("classes", [0, 10])
def test_weights_of_a_file_may_have_a_classifier(tmp_path, suffix, classes):
    network = timm.create_model("test_resnet", num_classes=classes)
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pth" else save_file)(network.state_dict(), path)
    found = TimmBackbone("test_resnet", str(path)).network.state_dict()
    given = network.state_dict()
    assert set(given) - set(found) == ({"fc.weight", "fc.bias"} if classes else set())
    assert all(torch.equal(value, given[name]) for name, value in found.items())


def test_other_weights_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    for wrong in ({**state, "more.weight": torch.zeros(1)}, dict(list(state.items())[1:])):
        torch.save(wrong, path)
        with pytest.raises(DataError, match="weights do not fit test_resnet"):
            TimmBackbone("test_resnet", str(path))
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as weights of safetensors"):
        TimmBackbone("test_resnet", str(tmp_path / "weights.safetensors"))

    def fail(*arguments, **options):
        raise OSError("no network\nhere")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        DataError, match=r"test_resnet cannot be had \(no network\).*--weights FILE"
    ):
        TimmBackbone("test_resnet", "imagenet")


def test_networks_that_are_not_there(monkeypatch):
    for name, said in (
        ("timm/tets_resnet", "no network 'tets_resnet'; did you mean 'test_resnet'"),
        ("timm/test_resnet.nothing", "no network 'test_resnet.nothing'"),
        ("test_resnet", "expected timm/NAME or one of"),
    ):
        with pytest.raises(ConfigError, match=said):
            build_backbone(name)
    with pytest.raises(ConfigError, match="teacher.backbone=vgg11_bn_attention"):
        build_teacher("timm/test_resnet", 3, task="segmentation")
    for name, size in (("test_vit", 100), ("xcit_nano_12_p16_224", 96)):
        with pytest.raises(ConfigError, match=f"{name} gives no features of images of {size} x"):
            FrozenTeacher(name, "none", size)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        build_backbone("timm/test_resnet")


def frozen(workshop, path, *arguments: str) -> None:
    given = ["--timm", "test_efficientnet", "--weights", "none", "--size", "32", "--data", "Tiny"]
    given += ["--root", str(workshop.root), "--output", str(path), "--device", "cpu"]
    export_teacher.main([*given, *arguments])


@pytest.mark.slow
def test_a_frozen_network_is_exported(workshop, tmp_path, capfd):
    path = tmp_path / "bank.h5"
    frozen(workshop, path)
    printed = capfd.readouterr()
    assert "warning: test_efficientnet with random weights" in printed.err
    assert printed.out.startswith("exported 80 shapes x 12 views to ")
    bank, split = Bank(path), open_split("Tiny", "test", workshop.root)
    bank.check(split)
    assert {name: bank.shape(name) for name in bank.names} == {
        "codes": (256,),
        "view_codes": (12, 256),
    }
    assert bank.signed("view_codes")
    told = bank.provenance["teacher_config"]
    assert (told["timm"], told["size"], told["precision"]) == ("test_efficientnet", 32, "float32")
    assert bank.label() == ["codes of test_efficientnet (random, 32 px)"]
    assert bank.identity.endswith(", 32 pixels, float32")
    row = bank.locate([split.ids[5]])
    codes = bank.read("view_codes", row)
    np.testing.assert_allclose(bank.read("codes", row), codes.mean(axis=1), atol=1e-4)
    seed_everything(0)
    expected = FrozenTeacher("test_efficientnet", "none", 32)(
        torch.from_numpy(split.views(5))[None, :, None]
    )
    assert bank.signed("codes") == bool((expected.code < 0).any())
    np.testing.assert_allclose(codes, expected.view_codes, rtol=1e-3, atol=1e-4)

    frozen(workshop, path)
    assert "already the export" in capfd.readouterr().out
    with pytest.raises(
        ConfigError, match="teacher_config.precision: found 'float32', expected 'bf"
    ):
        frozen(workshop, path, "--precision", "bfloat16")
    with pytest.raises(ConfigError, match="teacher_config.size: found 32, expected 64"):
        frozen(workshop, path, "--size", "64")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "found neither"),
        (["a.pth", "--timm", "test_vit", "--data", "Tiny"], "found a.pth and --timm"),
        (["--timm", "test_vit"], "--timm needs --data"),
        (["a.pth", "--weights", "none"], "are for --timm"),
        (["a.pth", "--size", "32"], "are for --timm"),
    ],
)
def test_arguments_that_exclude_each_other(arguments, said):
    with pytest.raises(ConfigError, match=said):
        export_teacher.main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_teacher_with_a_backbone_of_timm_trains_and_is_read_again(workshop, tmp_path, name):
    arguments = ["scripts/configs/recipes/teacher.yaml", "scripts/configs/sets/demo_teacher.yaml"]
    arguments += [f"teacher.backbone=timm/{name}", "data.name=Tiny", f"data.root={workshop.root}"]
    arguments += ["train.epochs=1", "train.eval_every=1", "train.amp=none", "train.pictures=false"]
    arguments += ["data.views=2"]
    arguments += ["run.name=timm", f"run.dir={tmp_path}/runs", f"run.checkpoints={tmp_path}/ckpt"]
    train_teacher.main([*arguments, "run.device=cpu", "run.threads=1"])
    path = tmp_path / "ckpt" / "teacher" / "timm.pth"
    content, teacher = read_model(path), load_model(path)
    assert content["build"]["backbone"] == f"timm/{name}"
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, content["model"][key])
    assert teacher(VIEWS).view_codes.shape == (2, 3, 512)
    assert teacher.mean.flatten().tolist() == pytest.approx([0.5] * 3)
    plain = build_teacher(f"timm/{name}", 3, normalise="none")
    assert plain.mean.abs().sum() == 0 and (plain.std == 1).all()


@pytest.mark.parametrize("name", ["test_resnet", slow_if(True, "test_vit"), "test_efficientnet"])
def test_every_parameter_of_the_backbone_gets_a_gradient(name):
    teacher = build_teacher(f"timm/{name}", 3)
    teacher(VIEWS).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in teacher.parameters())
