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

RECIPES = "scripts/configs/recipes"
SIZES = {"teacher": "data.size=32", "generator": "data.points=128"}


class Stages:
    """Folders and files of the three stages on the tiny set."""

    def __init__(self, workshop):
        self.workshop, self.folder = workshop, workshop.folder
        self.teacher, self.generator = (self.trained(f"cmt_{name}") for name in SIZES)
        self.bank = self.folder / "cmt.h5"

    def trained(self, name: str) -> Path:
        return self.folder / "ckpt" / "teacher" / f"{name}.pth"

    def arguments(self, stage: str, *more: str) -> list[str]:
        """Of train_teacher.py: one epoch of three steps."""
        words = [f"{RECIPES}/pointcmt_{stage}.yaml", "data.name=Tiny", SIZES[stage]]
        words += [f"data.root={self.workshop.root}", "train.epochs=1", "train.batch_size=16"]
        words += ["train.eval_every=1", "run.device=cpu", "run.threads=1", f"run.name=cmt_{stage}"]
        words += [f"run.dir={self.folder}/runs", f"run.checkpoints={self.folder}/ckpt"]
        words += ["teacher.weights=none"] if stage == "teacher" else [f"targets.bank={self.bank}"]
        return [*words, *more]

    def student(self, name: str, *more: str, recipe: str = "pointnet") -> list[str]:
        """Of train_student.py: PointCMT laid over a recipe, two epochs of three steps."""
        words = self.workshop.student_arguments(name, f"targets.bank={self.bank}", recipe=recipe)
        words.insert(2, "scripts/configs/sets/pointcmt.yaml")
        return [*words, f"terms.feature.generator={self.generator}", *more]


@pytest.fixture(scope="session")
def stages(workshop) -> Stages:
    made = Stages(workshop)
    train_teacher.main(made.arguments("teacher"))
    export = [str(made.teacher), "--output", str(made.bank), "--device", "cpu", "--threads", "1"]
    export_teacher.main(export)
    train_teacher.main(made.arguments("generator"))
    return made


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
