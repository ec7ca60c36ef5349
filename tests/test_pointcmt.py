"""PointCMT: its three stages, its losses against naive twins, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_objective
from torch import nn

import export_teacher
import test as test_program
import train_student
import train_teacher
from data.bank import Bank, write_bank
from models import load_model
from models.generators import Generator, scale_cloud
from models.losses import earth_movers_distance
from models.students import build_student
from utils.checkpoint import read_model, save
from utils.errors import ConfigError
from utils.fields import Field


def test_the_three_stages_follow_one_another(stages, tmp_path, capsys):
    teacher = load_model(stages.teacher)
    found = teacher(torch.rand(2, 3, 3, 32, 32, generator=torch.manual_seed(0)))
    assert found.logits.shape == (2, 16) and found.code.shape == (2, 512)
    assert torch.equal(found.code, found.view_codes.amax(dim=1))
    assert list(read_model(stages.teacher)["config"]["terms"]) == ["task"]

    generator, content = load_model(stages.generator), read_model(stages.generator)
    bank = Bank(stages.bank)
    assert generator(torch.rand(2, 512)).shape == (2, 128, 3)
    assert content["training"]["teacher"] == bank.identity
    assert content["training"]["bank"] == bank.provenance
    assert content["training"]["metrics"].keys() == {"eval/emd"}

    train_student.main(stages.student("cmt"))
    path = stages.workshop.student("cmt")
    content, student = read_model(path), load_model(path)
    assert content["training"]["method"] == ["pointcmt"] and content["heads"] == {}
    assert not any("generator" in name for name in content["model"])
    out = student(torch.rand(2, 128, 3))
    assert out.global_feature.shape == (2, 512) and torch.equal(out.global_feature, out.code)
    torch.testing.assert_close(student.head.classifier(out.code), out.logits)

    common = ["--results", str(tmp_path / "r.csv"), "--pictures", str(tmp_path)]
    common += ["--device", "cpu", "--threads", "1"]
    capsys.readouterr()
    test_program.main([str(stages.generator), *common])
    assert "mean earth mover's distance 0." in capsys.readouterr().out
    assert (tmp_path / "cmt_generator_Tiny_test.png").stat().st_size > 1000
    with np.load(tmp_path / "predictions" / "cmt_generator.npz") as kept:
        assert kept["distance"].shape == (32,)
    test_program.main([str(path), *common])
    assert "overall accuracy" in capsys.readouterr().out


def clouds(batch: int = 3, count: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, 3, generator=torch.Generator().manual_seed(seed))


def scaled_plainly(points: np.ndarray, published: bool) -> np.ndarray:
    low, side = points.min(axis=0), np.ptp(points, axis=0)
    s, diff = 1 / side.max(), side.max() - side
    off = s * (low - diff) / 2 if published else s * (low - diff / 2)
    return s * points - 0.5 - off


@pytest.mark.parametrize("scaling", ["published", "box"])
def test_clouds_are_scaled_as_the_equation_says(scaling):
    points = clouds() * torch.tensor([[[1.0, 2.0, 0.3]]]) + 0.4
    found = scale_cloud(points, scaling)
    for row, expected in zip(found.numpy(), points.numpy(), strict=True):
        np.testing.assert_allclose(row, scaled_plainly(expected, scaling == "published"), atol=1e-6)
    # only the proper one forgets where a cloud is; both forget its size
    moved = torch.allclose(scale_cloud(points + 1, scaling), found, atol=1e-5)
    assert moved == (scaling == "box")
    assert scale_cloud(torch.zeros(1, 4, 3), scaling).isfinite().all()


@pytest.mark.parametrize(("layers", "parameters"), [(1, 1), (3, 5)])
def test_a_generator_makes_as_many_points_as_it_was_built_for(layers, parameters):
    generator = Generator(20, 7, layers)
    assert generator(torch.rand(2, 20)).shape == (2, 7, 3)
    assert len(list(generator.parameters())) == parameters
    if layers == 1:  # a linear map, half of whose inputs are dropped while it is trained
        codes = torch.rand(2, 20)
        assert torch.equal(generator.eval()(2 * codes), 2 * generator(codes))
    with pytest.raises(ConfigError, match="found clouds of 9 points, and this generator makes 7"):
        generator.distance(torch.rand(1, 7, 3), torch.rand(1, 9, 3))


def distilled(terms: dict, head: str = "pointcmt", code_size: int = 24, width: int = 24, **options):
    """A student of 5 classes, its objective, and a batch."""
    torch.manual_seed(0)
    student = build_student("pointnet", 5, head, code_size=code_size)
    field = Field((width,), signed=False, teacher="mine")
    objective = make_objective(student, terms, {"codes": field}, **options)
    batch = {"points": clouds(4, 32), "label": torch.tensor([0, 1, 4, 4])}
    batch["codes"] = torch.rand(4, width, generator=torch.Generator().manual_seed(1))
    return objective, batch


@pytest.mark.parametrize("detach", [False, True])
def test_the_classifier_term_is_the_naive_divergence(detach):
    """Value and gradients, into the classifier from both sides unless one is detached."""
    objective, batch = distilled({"classifier": 1.0}, classifier={"detach": detach})
    objective.eval()
    student = objective.network
    loss = objective(batch).losses["classifier"]
    last = student.head.classifier
    found = torch.autograd.grad(loss, [last.weight, last.bias])

    code = student(batch["points"]).code.detach()
    weight, bias = (value.detach().clone().requires_grad_() for value in (last.weight, last.bias))
    expected = 0.0
    for own, taught in zip(code, batch["codes"], strict=True):
        p, q = ((weight @ x + bias).exp() for x in (taught, own))
        p, q = p / p.sum(), q / q.sum()
        p = p.detach() if detach else p
        expected = expected + sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True))
    expected = expected / len(code)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(found, torch.autograd.grad(expected, [weight, bias]), strict=True):
        torch.testing.assert_close(one, other)


def test_the_weight_of_the_classifier_term_does_not_depend_on_the_batch():
    objective, batch = distilled({"classifier": 1.0})
    objective.eval()
    twice = {name: torch.cat([value, value]) for name, value in batch.items()}
    once = objective(batch).losses["classifier"]
    torch.testing.assert_close(objective(twice).losses["classifier"], once)


def save_generator(path: Path, code_size: int = 24, teacher: str | None = "mine") -> Generator:
    torch.manual_seed(3)
    generator = Generator(code_size, 16)
    build = {"task": "generation", "code_size": code_size, "points": 16, "layers": 1}
    content = {"format": "multiview-distillation checkpoint", "version": 2, "role": "teacher"}
    content |= {"build": build, "classes": [], "heads": {}, "config": {}}
    content |= {"model": generator.state_dict(), "training": {"teacher": teacher}}
    save(path, content)
    return generator.eval()


def test_the_feature_term_compares_the_clouds_of_two_codes(tmp_path, capfd):
    path = tmp_path / "generator.pth"
    generator = save_generator(path)
    options = {"feature": {"generator": str(path), "scaling": "box"}}
    objective, batch = distilled({"feature": 1.0}, **options)
    assert objective.inputs.keys() == {"generator"} and capfd.readouterr().err == ""
    frozen = objective.terms["feature"].frozen["generator"]
    objective.train()
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    assert not any("generator" in name for name in objective.state_dict())
    objective.eval()  # the student's statistics
    loss = objective(batch).losses["feature"]
    code = objective.network(batch["points"]).code
    made, taught = (scale_cloud(generator(x), "box") for x in (code, batch["codes"]))
    torch.testing.assert_close(loss, earth_movers_distance(made, taught)[0].mean())
    loss.backward()
    assert objective.network.head.linear.weight.grad.abs().max() > 0
    assert objective.network.head.classifier.weight.grad is None
    published, _ = distilled({"feature": 1.0}, feature={"generator": str(path)})
    assert published.eval()(batch).losses["feature"] != loss

    save_generator(path, teacher=None)  # a published one, which does not say
    distilled({"feature": 1.0}, feature={"generator": str(path)})
    assert "does not say which teacher" in capfd.readouterr().err


@pytest.mark.parametrize("term", ["feature", "classifier"])
@pytest.mark.parametrize(
    ("head", "code_size", "width", "found"),
    [
        ("pointcmt", 24, 32, "24 channels"),
        ("pointmcd", 512, 384, "512 channels"),
        ("published", 512, 512, "256 channels"),
    ],
)
def test_a_code_of_another_width_is_refused(term, head, code_size, width, found):
    said = f"terms.{term} found codes of {width} channels in the bank, and .* reads {found}: give "
    with pytest.raises(ConfigError, match=f"{said}student.head=pointcmt student.code_size={width}"):
        distilled({term: 1.0}, head, code_size, width)


def test_any_head_with_a_layer_of_the_width_takes_the_classifier_term():
    """With PointMCD's projection beside it."""
    terms = {"task": 0.1, "alignment": 1.0, "classifier": 0.96}
    views = {"view_codes": Field((4, 512), False), "codes": Field((512,), False)}
    student = build_student("pointnet", 5)
    objective = make_objective(student, terms, views)
    batch = {"points": clouds(4, 64), "label": torch.tensor([0, 1, 4, 4])}
    batch |= {"codes": torch.rand(4, 512), "view_codes": torch.rand(4, 4, 512)}
    batch["visibility"] = torch.rand(4, 64, 4) < 0.5
    out = objective(batch)
    assert list(out.losses) == ["task", "alignment", "classifier"]
    objective.total(out.losses).backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert isinstance(student.head, nn.Module) and student.head.classifier.bias is None


@pytest.mark.parametrize("head", ["published", "default"])
def test_a_width_that_a_head_does_not_have_is_refused(head):
    with pytest.raises(ConfigError, match="student.code_size=99 is of the heads pointmcd and poi"):
        build_student("pointnet2_ssg", 5, head, code_size=99)
    with pytest.raises(ConfigError, match="code_size=99 is of the heads .*, found segmentation"):
        build_student("pointnet", 5, task="segmentation", num_categories=2, code_size=99)


def test_bad_input_is_one_line_before_a_run_begins(stages, workshop, refused, tmp_path):
    def student(*more: str, code: int = 2) -> str:
        words = stages.student("refused", *more)
        if "terms.feature.generator=null" in more:
            words.remove(f"terms.feature.generator={stages.generator}")
        return refused(train_student.main, words, code)

    generator = "terms.feature.generator"
    assert "give terms.feature.generator=CKPT" in student(f"{generator}=null")
    assert "no checkpoint at nowhere.pth" in student(f"{generator}=nowhere.pth", code=3)
    assert "is a teacher for classification" in student(f"{generator}={stages.teacher}")
    of_other = student(f"targets.bank={workshop.bank}")
    assert "was trained on codes of the teacher" in of_other and "train one from this" in of_other
    save_generator(tmp_path / "narrow.pth", teacher=Bank(stages.bank).identity)
    assert "reads codes of 24 channels, the bank has 512" in student(
        f"{generator}={tmp_path / 'narrow.pth'}"
    )

    given = Bank(stages.bank)
    without = {"logits": given.read("logits", given.locate(given.ids))}
    write_bank(tmp_path / "logits.h5", given.ids, without, given.provenance)
    no_codes = f"targets.bank={tmp_path / 'logits.h5'}"
    assert "'codes' were asked for" in student(no_codes)

    def teacher(*more: str, stage: str = "generator", code: int = 2) -> str:
        return refused(train_teacher.main, [*stages.arguments(stage), *more], code)

    name = "run.name=refused"
    assert "holds no codes" in teacher(name, no_codes, code=3)
    assert "no bank at nowhere.h5" in teacher(name, "targets.bank=nowhere.h5", code=3)
    assert "unknown key 'data.points'" in teacher(name, "data.points=9", stage="teacher")
    assert "unknown key 'teacher.backbone'" in teacher(name, "teacher.backbone=resnet18")
    assert "terms.views trains a teacher for classification" in teacher(
        name, "terms.views.weight=1"
    )
    assert not (stages.folder / "runs" / "refused").exists()

    assert "sees no views" in refused(export_teacher.main, [stages.generator], 2)
    tested = [stages.generator, "--results", tmp_path / "r.csv", "--device", "cpu"]
    assert "makes 128" in refused(test_program.main, [*tested, "--points", "64"], 2)
    assert "was trained on codes of the teacher" in refused(
        test_program.main, [*tested, "--bank", workshop.bank], 3
    )
    tested[0] = stages.teacher
    assert "--bank is for generators" in refused(test_program.main, [*tested, "--bank", "x"], 2)
