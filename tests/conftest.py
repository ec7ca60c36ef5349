"""A tiny prepared set, a teacher, its bank: made once for all tests by the real programs."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import export_teacher
import train_student
import train_teacher
from data.prepare import __main__ as prepare
from models.objective import Objective
from models.terms import TERMS
from utils.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
TEACHER = [
    "scripts/configs/recipes/teacher.yaml",
    "scripts/configs/sets/demo_teacher.yaml",
    "teacher.backbone=squeezenet1_0",
    "data.views=4",
    "train.epochs=1",
    "train.eval_every=1",
    "train.amp=none",  # on any machine
]


def pytest_collection_modifyitems(config, items):
    """Leave out the markers of the tiers that were not asked for; a test that is named runs."""
    if config.option.markexpr:
        left_out = {"stress"} - set(re.findall(r"\w+", config.option.markexpr))
    else:
        named = any("::" in word for word in config.args)
        left_out = set() if named else {"slow", "stress"}
    kept, outside = [], []
    for item in items:
        marked = left_out & {mark.name for mark in item.iter_markers()}
        (outside if marked else kept).append(item)
    if outside:
        config.hook.pytest_deselected(items=outside)
        items[:] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``-n 2`` a file's tests stay in one process: fixtures that they share take seconds."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


def slow_if(slow: bool, *values):
    """Values of a parametrised test, of the slow tier if ``slow``."""
    return pytest.param(*values, marks=[pytest.mark.slow] * slow)


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)  # as in the runs, which are compared with programs of their own


@pytest.fixture(scope="session", autouse=True)
def _nothing_survives_a_power_cut():
    """To wait for the disk at every file that is written adds up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures are composed and come out empty, for tests that look at none: to lay one out takes
    half a second."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).touch())


@dataclass(frozen=True)
class Workshop:
    """Folders of a small experiment: ``root`` of the sets, one teacher and its bank."""

    folder: Path
    root: Path
    teacher: Path
    bank: Path

    def student_arguments(
        self, name: str, *arguments: str, recipe: str = "pointnet", data: str = "demo"
    ) -> list[str]:
        """Arguments of train_student.py for two quick epochs into this folder."""
        return [
            f"scripts/configs/recipes/{recipe}.yaml",
            f"scripts/configs/sets/{data}.yaml",
            "data.name=Tiny",
            f"data.root={self.root}",
            "data.points=128",
            f"targets.bank={self.bank}",
            "train.epochs=2",
            "train.amp=none",
            "train.batch_size=16",
            "train.eval_every=2",
            "train.pictures=false",
            "run.device=cpu",
            "run.threads=1",
            f"run.name={name}",
            f"run.dir={self.folder}/runs",
            f"run.checkpoints={self.folder}/ckpt",
            *arguments,
        ]

    def student(self, name: str) -> Path:
        return self.folder / "ckpt" / "student" / f"{name}.pth"

    def pixel_arguments(self, recipe: str, name: str, *arguments: str) -> list[str]:
        """Arguments of train_teacher.py for one step on the small views of ``pixel_teachers``."""
        return [
            f"scripts/configs/recipes/{recipe}.yaml",
            "scripts/configs/sets/demo_pixels.yaml",
            "data.name=Pixels",
            f"data.root={self.root}",
            "data.size=16",
            "train.epochs=1",
            "train.batch_size=16",
            "train.eval_every=1",
            "train.pictures=false",
            "run.device=cpu",
            "run.threads=1",
            f"run.name={name}",
            f"run.dir={self.folder}/runs",
            f"run.checkpoints={self.folder}/ckpt",
            *arguments,
        ]


def prepare_tiny(root: Path, name: str = "Tiny", *arguments: str) -> None:
    """16 classes, 3 + 2 shapes each, 512 points, 12 views of 32 x 32."""
    given = ["--shapes", "--name", name, "--root", str(root), "--workers", "1"]
    given += ["--shapes-train", "3", "--shapes-test", "2", "--points", "512"]
    given += ["--image-size", "32", *arguments]
    prepare.prepare(prepare.parse(given))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    root = folder / "data"
    prepare_tiny(root)
    arguments = [*TEACHER, "data.name=Tiny", f"data.root={root}", "run.name=teacher"]
    arguments += [
        f"run.dir={folder}/runs",
        f"run.checkpoints={folder}/ckpt",
        "run.device=cpu",
        "run.threads=1",
    ]
    train_teacher.main(arguments)
    teacher, bank = folder / "ckpt" / "teacher" / "teacher.pth", folder / "bank.h5"
    export_teacher.main([str(teacher), "--output", str(bank), "--device", "cpu", "--threads", "1"])
    return Workshop(folder, root, teacher, bank)


@pytest.fixture(scope="session")
def distilled(workshop) -> Path:
    train_student.main(workshop.student_arguments("distilled"))
    return workshop.student("distilled")


@pytest.fixture(scope="session")
def pixel_teachers(workshop) -> tuple[Path, Path]:
    """An autoencoder, and the teacher of parts that starts from its backbone, on a set of theirs:
    16 + 16 shapes, views of 16 x 16."""
    few = ["--shapes-train", "1", "--shapes-test", "1", "--image-size", "16"]
    prepare_tiny(workshop.root, "Pixels", *few)
    folder = workshop.folder / "ckpt" / "teacher"
    train_teacher.main(workshop.pixel_arguments("teacher_autoencoder", "autoencoder"))
    init = f"init={folder}/autoencoder.pth"
    train_teacher.main(workshop.pixel_arguments("teacher_partseg", "partseg", init))
    return folder / "autoencoder.pth", folder / "partseg.pth"


STAGES = {"teacher": "data.size=32", "generator": "data.points=128"}


class Stages:
    """Folders and files of PointCMT's three stages on the tiny set."""

    def __init__(self, workshop):
        self.workshop, self.folder = workshop, workshop.folder
        self.teacher, self.generator = (self.trained(f"cmt_{name}") for name in STAGES)
        self.bank = self.folder / "cmt.h5"

    def trained(self, name: str) -> Path:
        return self.folder / "ckpt" / "teacher" / f"{name}.pth"

    def arguments(self, stage: str, *more: str) -> list[str]:
        """Of train_teacher.py: one epoch of three steps."""
        words = [f"scripts/configs/recipes/pointcmt_{stage}.yaml", "data.name=Tiny", STAGES[stage]]
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


@pytest.fixture
def own_terms():
    """Loss terms that a test registers are known in this test alone."""
    known = dict(TERMS)
    yield
    TERMS.clear()
    TERMS.update(known)


@pytest.fixture
def objectives(monkeypatch) -> list[Objective]:
    """Those that train_student.py trains."""
    made = []

    def keep(*arguments):
        made.append(Objective(*arguments))
        return made[-1]

    monkeypatch.setattr(train_student, "Objective", keep)
    return made


@pytest.fixture
def refused(capfd):
    """Run a program's main and return its one line of complaint after checking the exit code."""

    def check(main, arguments, code: int) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run_main(lambda: main([str(word) for word in arguments]))
        complaint = capfd.readouterr().err.strip()
        assert left.value.code == code, complaint
        assert complaint.startswith("error: ")
        assert "\n" not in complaint
        assert "Traceback" not in complaint
        return complaint

    return check


def run_program(
    *arguments: str, processes: int = 1, timeout: float = 300
) -> subprocess.CompletedProcess:
    """Run ``python ARGUMENTS`` in the root of the project, by torchrun for several processes."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*launcher, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
