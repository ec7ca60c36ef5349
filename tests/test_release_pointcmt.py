"""PointCMT's published files, converted, compute what plain versions of its networks do."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import slow_if
from test_release import cloud, convert, same, scattered

import test as test_program
from data.bank import Bank, write_bank
from models import load_model
from models.release.convert import convert as convert_state
from scripts.reference import pointcmt
from utils.checkpoint import read_model
from utils.errors import DataError

KINDS = {
    "student": pointcmt.Student,
    "teacher": pointcmt.Teacher,
    "generator": pointcmt.PointGenerator,
}


def published(network, container: str | None = "model_state"):
    """The file of a release: in a container, trained with DataParallel."""
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    return state if container is None else {container: state, "epoch": 3}


@pytest.mark.slow
def test_a_converted_student_is_the_published_one(tmp_path):
    network = scattered(pointcmt.Student(7))
    path = convert(published(network), tmp_path)
    student, content = load_model(path), read_model(path, "student")
    points = cloud("")[0]
    points[:, 100:160] *= 0.01  # so that both samplers have something to leave out
    points[1, 0] = 0
    same(student(points), network(points))
    assert content["build"]["sampling"] == content["config"]["student"]["sampling"] == "off_origin"
    assert content["training"]["method"] == ["pointcmt"] and content["classes"][6] == "class_6"
    codes = torch.rand(3, 512)
    torch.testing.assert_close(student.classify(codes), network.model.fc_layer2(codes))


@pytest.mark.slow
def test_a_converted_teacher_is_the_published_one(tmp_path):
    network = scattered(pointcmt.Teacher())
    path = convert(published(network, None), tmp_path)
    views = torch.rand(2, 3, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    same(load_model(path)(views), network(views))
    config = read_model(path, "teacher")["config"]["teacher"]
    assert (config["head"], config["normalise"]) == ("mvcnn", "imagenet")


def test_a_converted_generator_is_the_published_one(tmp_path):
    network = scattered(pointcmt.PointGenerator())
    generator = load_model(convert(published(network), tmp_path))
    codes = torch.rand(4, 512, generator=torch.Generator().manual_seed(2))
    assert generator(codes).shape == (4, 1024, 3)
    torch.testing.assert_close(generator(codes), network(codes))


def test_a_converted_generator_is_tested_on_a_bank(workshop, tmp_path, refused, capfd):
    path = convert(published(scattered(pointcmt.PointGenerator(128))), tmp_path)
    assert read_model(path)["build"]["points"] == 128
    words = [path, "--data", "Tiny", "--root", workshop.root, "--device", "cpu"]
    words += ["--results", tmp_path / "r.csv", "--pictures", tmp_path]
    assert "no bank at unknown" in refused(test_program.main, words, 3)
    test_program.main([str(word) for word in [*words, "--bank", workshop.bank]])
    assert "mean earth mover's distance" in capfd.readouterr().out
    bank = Bank(workshop.bank)
    narrow = {"codes": bank.read("codes", bank.locate(bank.ids))[:, :100]}
    write_bank(tmp_path / "narrow.h5", bank.ids, narrow, bank.provenance)
    said = refused(test_program.main, [*words, "--bank", tmp_path / "narrow.h5"], 3)
    assert "codes of 100 channels" in said and "reads 512" in said


@pytest.mark.parametrize("kind", [slow_if(name == "student", name) for name in KINDS])
def test_one_missing_entry_is_one_too_many(kind):
    state = {name: torch.zeros(value.shape) for name, value in KINDS[kind]().state_dict().items()}
    key = next(name for name in reversed(state) if name.endswith("weight"))
    if kind == "generator":
        state[key] = torch.zeros(3072, 512, 2)
        said = f"of another shape: {re.escape(key)}"
    else:
        del state[key]
        said = f"missing: {re.escape(key)}$"
    with pytest.raises(DataError, match=said):
        convert_state(state, kind)
