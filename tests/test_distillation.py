"""Distillation of logits and of similarities: values, what is refused, and two steps of each."""

import math
import re

import numpy as np
import pytest
import timm
import torch
from conftest import slow_if
from helpers import make_objective

import export_teacher
import train_student
from data.bank import Bank, write_bank
from data.storage import open_split
from models.students import build_student
from models.terms.logits import softened_divergence
from models.terms.similarity import similarity_loss
from utils.checkpoint import read_model
from utils.fields import Field

OVERLAYS = "scripts/configs/sets"


def test_softened_divergence_is_the_formula_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, generator=generator, dtype=torch.float64).mul(4).requires_grad_()
    teacher = torch.randn(3, 5, generator=generator, dtype=torch.float64).mul(4).requires_grad_()
    for temperature in (1.0, 4.0):
        total, shares = 0.0, []
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
            one, two = ([math.exp(x / temperature) for x in row] for row in (s, t))
            q, p = ([x / sum(row) for x in row] for row in (one, two))
            total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
            shares.append([temperature * (a - b) / 3 for a, b in zip(q, p, strict=True)])
        found = softened_divergence(student, teacher, temperature)
        assert found.item() == pytest.approx(temperature**2 * total / 3, rel=1e-5)
        (gradient,) = torch.autograd.grad(found, student)
        torch.testing.assert_close(gradient, torch.tensor(shares).double(), rtol=1e-4, atol=1e-6)
    assert not softened_divergence(student.detach(), teacher, 4.0).requires_grad
    moved = teacher.detach() + torch.arange(3.0).view(3, 1)  # constants that no softmax sees
    assert softened_divergence(moved, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert softened_divergence(student.bfloat16(), teacher.half(), 4.0).dtype == torch.float32


def test_similarities_are_those_of_a_naive_twin():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 6, generator=generator).requires_grad_()
    teacher = torch.rand(4, 9, generator=generator)
    rows = []
    for codes in (student.tolist(), teacher.tolist()):
        products = [[sum(map(math.prod, zip(a, b, strict=True))) for b in codes] for a in codes]
        rows.append([[x / math.hypot(*row) for x in row] for row in products])
    own, taught = (np.array(row) for row in rows)
    found = similarity_loss(student, teacher)
    assert found.item() == pytest.approx(((own - taught) ** 2).sum() / 16, rel=1e-5)
    (gradient,) = torch.autograd.grad(found, student)
    assert gradient.abs().min() > 0
    turned = torch.linalg.qr(torch.randn(9, 9, generator=generator))[0]
    assert similarity_loss(3 * teacher @ turned, teacher).item() == pytest.approx(0, abs=1e-10)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(similarity_loss(student, teacher), found)
    assert similarity_loss(torch.zeros(4, 6), teacher).isfinite()


def test_the_terms_read_the_output_and_make_no_heads():
    student = build_student("pointnet", 5).train()
    batch = {
        "points": torch.randn(4, 64, 3),
        "logits": torch.randn(4, 5),
        "codes": torch.randn(4, 20),
    }
    fields = {"logits": Field((5,)), "codes": Field((20,))}
    objective = make_objective(student, {"logits": 1.0, "similarity": 1.0}, fields)
    out = objective(batch)
    assert list(out.losses) == ["logits", "similarity"]
    assert len(list(objective.parameters())) == len(list(student.parameters()))
    again = make_objective(student, {"logits": 1.0}, fields, logits={"temperature": 1.0})
    assert again.terms["logits"].changes(again.terms["logits"].settings) == ["temperature 1.0"]
    again(batch).losses["logits"].backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def arguments_of(workshop, name: str, overlay: str, *more: str) -> list[str]:
    arguments = workshop.student_arguments(name, "train.epochs=1", "train.batch_size=16", *more)
    return [*arguments[:2], f"{OVERLAYS}/{overlay}.yaml", *arguments[2:]]


@pytest.mark.parametrize("overlay", ["logits", "similarity"])
def test_a_student_learns_by_each_of_them(workshop, overlay, objectives):
    train_student.main(arguments_of(workshop, f"by_{overlay}", overlay))
    assert list(objectives[0].weights) == ["transform", "task", overlay]
    content = read_model(workshop.student(f"by_{overlay}"))
    assert content["training"]["method"] == [overlay]
    assert content["heads"] == {}


def test_logits_alone_name_the_classes(workshop):
    train_student.main(arguments_of(workshop, "logits_only", "logits", "terms.task.weight=0"))
    training = read_model(workshop.student("logits_only"))["training"]
    assert training["labelled"] and "eval/overall" in training["metrics"]


def rewritten(workshop, path, change=None, left_out=(), **provenance):
    """The workshop's bank with other logits or another provenance."""
    bank = Bank(workshop.bank)
    rows = np.arange(len(bank.ids))
    arrays = {name: bank.read(name, rows) for name in bank.names if name not in left_out}
    if change:
        arrays["logits"] = change(arrays["logits"])
    found = {k: v for k, v in (bank.provenance | provenance).items() if v is not None}
    write_bank(path, bank.ids, arrays, found)
    return f"targets.bank={path}"


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            {"left_out": ("logits", "view_logits"), "teacher_config": {"timm": "test_vit"}},
            2,
            "has no logits, it has codes, view_codes: a frozen network knows no classes. Take",
        ),
        ({"left_out": ("logits",)}, 2, "has no logits, .*: its teacher knows no classes"),
        (
            {"change": lambda logits: logits[:, :12], "classes": None},
            2,
            r"terms.logits reads logits of shape \(16\) per shape, found \(12\)",
        ),
        (
            {"classes": ["airplane", "box"]},
            3,
            r"are of 2 classes \(airplane, box, ...\), Tiny has 16",
        ),
    ],
    ids=["frozen", "no classes", "fewer", "others"],
)
def test_a_bank_without_these_classes_is_refused_before_training(
    workshop, tmp_path, refused, change, code, said
):
    bank = rewritten(workshop, tmp_path / "bank.h5", **change)
    arguments = arguments_of(workshop, "refused", "logits", bank)
    complaint = refused(train_student.main, arguments, code)
    assert re.search(said, complaint), complaint
    assert not (workshop.folder / "runs" / "refused").exists()


def test_an_exported_bank_names_its_classes(workshop):
    split = open_split("Tiny", "train", workshop.root)
    assert Bank(workshop.bank).provenance["classes"] == split.class_names


@pytest.fixture(scope="module")
def frozen_bank(workshop, tmp_path_factory):
    """Features of a vision transformer that never learnt anything, of both signs."""
    path = tmp_path_factory.mktemp("frozen") / "vit.h5"
    arguments = ["--timm", "test_vit", "--weights", "none", "--size", "32", "--data", "Tiny"]
    arguments += ["--root", str(workshop.root), "--output", str(path), "--device", "cpu"]
    export_teacher.main(arguments)
    return path


@pytest.mark.parametrize(
    ("method", "normalise"),
    [("pointmcd", "standard"), slow_if(True, "pointmcd", "none"), ("similarity", "standard")],
)
def test_students_learn_from_a_frozen_transformer(
    workshop, frozen_bank, objectives, method, normalise
):
    name = f"vit_{method}_{normalise}"
    more = f"targets.bank={frozen_bank}", f"targets.normalise={normalise}"
    if method == "pointmcd":
        arguments = workshop.student_arguments(name, "train.epochs=1", *more)
    else:
        arguments = arguments_of(workshop, name, method, *more)
    train_student.main(arguments)
    content = read_model(workshop.student(name))
    words = [method, "codes of test_vit (random, 32 px)"]
    words += ["normalised codes"] * (normalise == "standard")
    assert content["training"]["method"] == words
    said = content["training"]["bank"].get("normalised", {})
    read = {"pointmcd": "view_codes", "similarity": "codes"}[method]
    assert set(said) == ({read} if normalise == "standard" else set())
    assert Bank(frozen_bank).signed(read)
    if method == "pointmcd":
        head = content["heads"]["alignment"]
        assert head["fields"]["view_codes"] == {"shape": [12, 64], "signed": True}
        assert not objectives[0].terms["alignment"].head.rectified


def test_a_frozen_transformer_has_no_logits(workshop, frozen_bank, refused):
    arguments = arguments_of(workshop, "vit_logits", "logits", f"targets.bank={frozen_bank}")
    assert "a frozen network knows no classes" in refused(train_student.main, arguments, 2)


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("vit_smal_patch14_dinov2", 2, "did you mean 'vit_small_patch14_dinov2'"),
        ("test_vit.lvd142m", 2, "no network 'test_vit.lvd142m'"),
        ("test_vit", 3, r"do not fit test_vit: \d\d missing \(\S+, \S+, \S+, ...\), \d\d unex"),
    ],
)
def test_other_names_and_other_weights_are_refused(workshop, tmp_path, refused, name, code, said):
    weights = tmp_path / "other.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), weights)
    arguments = ["--timm", name, "--weights", weights, "--data", "Tiny", "--root", workshop.root]
    arguments += ["--output", tmp_path / "bank.h5"]
    complaint = refused(export_teacher.main, arguments, code)
    assert re.search(said, complaint), complaint
    assert len(complaint) < 400
    assert not (tmp_path / "bank.h5").exists()
