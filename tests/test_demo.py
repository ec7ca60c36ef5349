"""The demo: its commands, one after another in one process, each as if it ran alone."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from helpers import parse_script
from parse_line import parse_line

from scripts import demo
from utils.errors import DataError, run_main


def settings() -> list:
    return [getattr(torch, f"get_{name}")() for name in demo.SETTINGS]


def test_every_command_is_parsed(tmp_path):
    results = f"""{tmp_path}/it's "\\a\\" $HOME #1.csv"""
    parsed = [parse_line(command) for command in demo.commands(results)]
    assert len(parsed) == 10
    assert [str(vars(options).get("results")) for options in parsed].count(results) == 4
    assert parsed[1].train.epochs == 3 and parsed[3].train.epochs == 12  # by the sets of the demo


def test_each_program_finds_what_those_before_it_wrote():
    prepared, teacher, export, baseline, pointmcd, *tests, _, overview = map(
        parse_line, demo.commands("r.csv")
    )
    assert {prepared.name} == {options.data.name for options in (teacher, baseline, pointmcd)}
    students = [f"ckpt/student/{options.run.name}.pth" for options in (baseline, pointmcd)]
    first = f"ckpt/teacher/{teacher.run.name}.pth"
    assert [str(options.checkpoint) for options in (export, *tests)] == [first, first, *students]
    assert list(map(str, overview.students)) == students
    assert pointmcd.targets.bank == f"expt/teacher/{teacher.run.name}.h5"
    assert baseline.terms.alignment.weight == 0 < pointmcd.terms.alignment.weight


def test_the_table_may_lie_at_any_path(tmp_path):
    results = f"""{tmp_path}/it's "\\a\\" $HOME #1.csv"""
    done = parse_script("demo.sh", tmp_path, PYTHON="printf %s\\n", RESULTS=results)
    assert done.stdout.splitlines() == ["-m", "scripts.demo", "--results", results]


def test_commands_run_in_order_until_one_fails(tmp_path, monkeypatch, capsys):
    prepare = ["-m", "data.prepare", "--shapes", "--root", str(tmp_path), "--points", "64"]
    prepare += ["--shapes-train", "1", "--shapes-test", "1", "--image-size", "16", "--workers", "1"]
    prepare += ["--name"]
    missing = ["test.py", str(tmp_path / "it's missing.pth"), "--device", "cpu"]
    lines = [[*prepare, "First"], missing, [*prepare, "Second"]]
    monkeypatch.setattr(demo, "commands", lambda results: lines)
    with pytest.raises(SystemExit) as left:
        run_main(lambda: demo.main([]))
    assert left.value.code == DataError.exit_code  # missing checkpoint
    printed = capsys.readouterr()
    assert "error: " in printed.err and "missing.pth" in printed.err
    assert "$ python -m data.prepare --shapes" in printed.out
    assert f"$ python test.py '{tmp_path}/it'\"'\"'s missing.pth' --device cpu\n" in printed.out
    assert (tmp_path / "First").is_dir() and not (tmp_path / "Second").exists()


def test_a_program_that_returns_a_code_stops_the_demo(monkeypatch):
    codes = iter([0, 3])
    monkeypatch.setattr(demo, "run", lambda command: next(codes))  # a third call would fail
    assert demo.main([]) == 3


@pytest.mark.usefixtures("undrawn")
def test_what_a_command_asks_of_pytorch_ends_with_it(workshop, tmp_path):
    """The number of threads decides the order of sums, and so the bits of what is trained."""
    found = settings()
    arguments = ["test.py", str(workshop.teacher), "--device", "cpu", "--threads", "3"]
    arguments += ["--results", str(tmp_path / "results.csv"), "--pictures", str(tmp_path)]
    assert demo.run(arguments) == 0
    assert "cpu, 3 threads" in (tmp_path / "results.csv").read_text()
    assert settings() == found


def test_nothing_slow_is_imported_before_the_first_command():
    """A preparation starts processes, which would import it too."""
    check = "import sys, scripts.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
