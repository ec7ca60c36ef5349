"""The whole method on the embedded shapes: prepare, teacher, export, PointNet without and with
distillation, test, table, overview picture.

    python -m scripts.demo [--results FILE]

The commands run one after another in this process, which starts PyTorch only once; the first that
fails ends it, with its exit code. A second call finds the work done and only tests.
"""

from __future__ import annotations

import utils.startup as startup

import argparse
import contextlib
import importlib
import shlex
import sys
from collections.abc import Iterator

from utils.errors import run_main

# Of PyTorch, by the names behind get_ and set_: what utils.device.prepare_process changes.
SETTINGS = ("num_threads", "deterministic_debug_mode", "float32_matmul_precision")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", default="expt/demo/results.csv", help="table of the figures")
    return parser.parse_args(arguments)


def commands(results: str) -> list[list[str]]:
    """What to run, each as it would stand behind ``python``."""
    recipes, sets = "scripts/configs/recipes", "scripts/configs/sets"
    teacher, bank = "ckpt/teacher/demo_teacher.pth", "expt/teacher/demo_teacher.h5"
    students = ["ckpt/student/demo_baseline.pth", "ckpt/student/demo_pointmcd.pth"]
    prepare = ["-m", "data.prepare", "--shapes", "--name", "Shapes", "--shapes-train", "16"]
    train_teacher = ["train_teacher.py", f"{recipes}/teacher.yaml", f"{sets}/demo_teacher.yaml"]
    train_student = ["train_student.py", f"{recipes}/pointnet.yaml", f"{sets}/demo.yaml"]
    places = ["--results", results, "--pictures", "expt/demo"]
    return [
        [*prepare, "--shapes-test", "12", "--points", "1024", "--image-size", "48"],
        [*train_teacher, "run.name=demo_teacher"],
        ["export_teacher.py", teacher],
        [*train_student, "run.name=demo_baseline", "terms.alignment.weight=0"],
        [*train_student, "run.name=demo_pointmcd", f"targets.bank={bank}"],
        *(["test.py", path, *places] for path in (teacher, *students)),
        ["-m", "scripts.make_tables", "--results", results],
        ["-m", "scripts.overview", *students, "--output", "expt/demo/overview.png"],
    ]


def locate(command: list[str]) -> tuple[str, list[str]]:
    """The module whose ``main`` a command behind ``python`` calls, and the arguments of that."""
    name, *arguments = command[1:] if command[0] == "-m" else command
    name = name.removesuffix(".py")
    return "data.prepare.__main__" if name == "data.prepare" else name, arguments


def run(command: list[str]) -> int:
    """Run one command in this process; its exit code."""
    print(f"\n$ python {shlex.join(command)}", flush=True)
    startup.begin_anew()
    name, arguments = locate(command)
    program = importlib.import_module(name)
    with pytorch_as_found():
        return program.main(arguments) or 0


@contextlib.contextmanager
def pytorch_as_found() -> Iterator[None]:
    """What a command asks of PyTorch for its process, such as ``--threads``, ends with it."""
    torch = sys.modules.get("torch")  # a preparation does without, and its processes start faster
    found = {name: getattr(torch, f"get_{name}")() for name in SETTINGS if torch}
    yield
    for name, value in found.items():
        if getattr(torch, f"get_{name}")() != value:
            getattr(torch, f"set_{name}")(value)


def main(arguments: list[str] | None = None) -> int:
    for command in commands(parse(arguments).results):
        if code := run(command):
            return code
    return 0


if __name__ == "__main__":
    run_main(main)
