"""Who imports whom, what is tracked, and that no file names a place of one machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, run_program

OURS = {"data", "models", "utils", "scripts", "tests"}
MAY_IMPORT = {"utils": {"utils"}, "data": {"data", "utils"}, "models": {"models", "utils"}}


def modules(path: Path) -> set[str]:
    """The dotted names of what a file imports from us, at its head or within a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in OURS}


# From the ground up: a room, which is a file or a folder, imports from the floors below it alone.
FLOORS = {
    "data": [
        {"rng", "parts", "batches", "synthetic", "hdf5"},
        {"geometry", "storage", "augment", "stores"},
        {"sources", "rendering", "views", "bank"},
        {"prepare", "targets", "show"},
        {"providers"},
        {"datasets"},
        {"tested"},
    ],
    "models": [
        {"outputs", "heads", "kernels"},
        {"layers"},
        {"encoders", "images"},
        {"students", "terms"},
        {"objective"},
        {"release", "loading"},
    ],
}


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_from_the_floors_below(package):
    floor = {room: level for level, rooms in enumerate(FLOORS[package]) for room in rooms}
    folder = ROOT / package
    for path in folder.rglob("*.py"):
        if path == folder / "__init__.py":
            continue
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        for module in modules(path):
            owner, other, *_ = module.split(".")
            below = owner != package or other == room or floor[other] < floor[room]
            assert below, f"{path} imports {module}"


def test_code_folders_of_data_are_tracked_and_prepared_sets_are_not():
    folders = [path.parent for path in (ROOT / "data").glob("*/__init__.py")]
    assert len(folders) == 5
    paths = [f"{path.relative_to(ROOT)}/file.py" for path in folders]
    done = subprocess.run(
        ["git", "check-ignore", *paths, "data/Some/train.h5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["data/Some/train.h5"]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_flow_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        assert {name.split(".")[0] for name in modules(path)} <= MAY_IMPORT[package], path


def test_no_private_places_are_named():
    for path in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split():
        if (
            path.endswith((".py", ".md", ".sh", ".yaml", ".toml", ".txt"))
            and path != "tests/test_imports.py"
        ):
            text = (ROOT / path).read_text()
            assert not re.search(r"/(work|root|home)/", text), path


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train_student, export_teacher, test"])
def test_programs_do_not_import_what_only_some_commands_need(program):
    """These take seconds to import, and a table starts hundreds of processes."""
    slow = {"torchvision", "timm", "pandas", "sklearn", "distributed", "numba", "triton"}
    check = f"import sys, {program}; sys.exit(' '.join({slow} & sys.modules.keys()) or 0)"
    done = run_program("-c", check)
    assert (done.returncode, done.stderr) == (0, "")
