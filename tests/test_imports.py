"""Who imports whom, what is tracked, and that no file names a place of one machine."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TEACHER, run_program

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
        {"sources", "rendering", "views", "bank", "subsets"},
        {"normalised"},
        {"prepare", "targets", "show"},
        {"providers"},
        {"datasets"},
        {"training"},
    ],
    "models": [
        {"outputs", "heads", "kernels"},
        {"layers", "losses"},
        {"encoders", "images", "generators"},
        {"students", "terms"},
        {"objective", "warm_start"},
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


PROGRAMS = [
    path
    for folder in ("", "data", "scripts")
    for path in (ROOT / folder).glob("*.py" if not folder else "**/*.py")
    if 'if __name__ == "__main__":' in path.read_text()
]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_program_imports_what_comes_before_everything_else_first(path):
    imports = [
        n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    first = next(node for node in imports if getattr(node, "module", None) != "__future__")
    assert isinstance(first, ast.Import) and first.names[0].name == "utils.startup"


def test_what_comes_before_everything_else_takes_no_time_and_leaves_a_choice():
    check = "import sys, os, utils.startup; print(os.environ['OMP_WAIT_POLICY'], len(sys.modules))"
    done = run_program("-S", "-c", check)
    policy, modules = done.stdout.split()
    assert policy == "PASSIVE" and int(modules) < 100
    chosen = subprocess.run(
        [sys.executable, "-S", "-c", check],
        cwd=ROOT,
        env={"OMP_WAIT_POLICY": "ACTIVE"},
        capture_output=True,
        text=True,
    )
    assert chosen.stdout.startswith("ACTIVE ")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train_student", "train_teacher"])
def test_the_first_step_of_a_training_needs_no_compiler(workshop, program):
    """SymPy and PyTorch's compiler take 2 to 3 s to import, TensorBoard and Matplotlib one."""
    arguments = workshop.student_arguments("started")
    if program == "train_teacher":
        places = [word for word in arguments if word.startswith(("data.root", "run.", "data.name"))]
        arguments = [*TEACHER, *places, "train.pictures=false"]
    late = {"torch._dynamo", "sympy", "matplotlib", "tensorboard", "sklearn"}
    check = (
        f"import sys, utils.startup as startup, {program}\n"
        f"def look(*a): print(sorted({late} & sys.modules.keys())); return kept(*a)\n"
        "kept = startup.tell; startup.tell = look\n"
        f"{program}.main({[*arguments, 'run.overwrite=true']!r})"
    )
    done = run_program("-c", check)
    lines = done.stdout.splitlines()
    assert lines[1] == "[]", done.stderr
    total, parts = re.fullmatch(
        r"first step done after ([\d.]+) s: (imports .*)", lines[2]
    ).groups()
    assert done.stdout.count("first step done") == 1
    log = (workshop.folder / "runs" / "started" / "log.jsonl").read_text().splitlines()
    first, *others = [json.loads(line).get("startup") for line in log]
    assert list(first) == re.findall(r"[a-z]+(?: [a-z]+)*", parts) and not any(others)
    assert sum(first.values()) == pytest.approx(float(total), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train_student, train_teacher, export_teacher, test"])
def test_programs_do_not_import_what_only_some_commands_need(program):
    """These take seconds to import, and a table starts hundreds of processes."""
    slow = {"torchvision", "timm", "pandas", "sklearn", "distributed", "numba", "triton"}
    slow |= {"matplotlib", "tensorboard", "scipy", "sympy", "torch._dynamo"}
    check = f"import sys, {program}; sys.exit(' '.join({slow} & sys.modules.keys()) or 0)"
    done = run_program("-c", check)
    assert (done.returncode, done.stderr) == (0, "")


def test_clouds_are_prepared_without_embree():
    check = "import sys; sys.modules['embreex'] = None; import data.prepare.__main__"
    done = run_program("-c", check)
    assert done.returncode == 0, done.stderr
