"""Commands in one process: each as if it ran alone, the first failure ends them."""

import io
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from scripts import in_one_process
from utils.errors import ConfigError

SHAPES = "-m data.synthetic.shapes {folder}/{name} --train 1 --test 1"


def run(lines: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "scripts.in_one_process"],
        input=lines,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_lines_are_split_as_a_shell_does():
    lines = ["# nothing\n", "\n", "test.py 'a b.pth' --top 3  # three\n", "-m data.show Set\n"]
    expected = [["test.py", "a b.pth", "--top", "3"], ["-m", "data.show", "Set"]]
    assert in_one_process.read_commands(lines) == expected
    assert in_one_process.module_of(expected[0]) == ("test", ["a b.pth", "--top", "3"])
    assert in_one_process.module_of(expected[1]) == ("data.show", ["Set"])


@pytest.mark.parametrize(
    "line",
    [
        "-m data/prepare",
        "-m data..prepare",
        "data.prepare.py",
        "ls",
        "test",
        "nothing.py",
        "-m",
        "-m nothing",
        "-m os",
        "-m utils.config",
        "scripts/bench.py",
        "../test.py",
    ],
)
def test_what_is_no_program_of_this_project_is_refused(line):
    with pytest.raises(ConfigError, match="expected PROGRAM.py or -m MODULE of this project"):
        in_one_process.read_commands([line])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("test.py a#1.pth#2 # three #4", ["test.py", "a#1.pth#2"]),
        ("test.py 'a #1.pth' \"#2\"#3 #it's", ["test.py", "a #1.pth", "#2#3"]),
        ("#test.py", []),
        ("\t# test.py\r\n", []),
    ],
)
def test_a_comment_begins_where_a_shell_begins_it(line, expected):
    assert in_one_process.split(line) == expected


def test_an_open_quote_is_refused():
    with pytest.raises(ConfigError, match="closing quotation"):
        in_one_process.read_commands(["test.py 'a"])


def test_commands_run_in_order_until_one_fails(tmp_path):
    lines = [
        SHAPES.format(folder=tmp_path, name="first"),
        f"test.py {tmp_path}/missing.pth --device cpu",
        SHAPES.format(folder=tmp_path, name="second"),
    ]
    done = run("\n".join(lines))
    assert done.returncode == 3  # missing checkpoint
    assert done.stderr.startswith("error: ") and "missing.pth" in done.stderr
    assert "$ python test.py" in done.stdout
    assert (tmp_path / "first").is_dir() and not (tmp_path / "second").exists()


def test_nothing_runs_if_a_later_line_is_wrong(tmp_path):
    done = run(f"{SHAPES.format(folder=tmp_path, name='first')}\nls\n")
    assert done.returncode == 2
    assert "found the line 'ls'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_wrong_usage_names_the_program():
    done = run("test.py --no-such-option\n")
    assert done.returncode == 2
    assert "usage: test" in done.stderr


@pytest.mark.parametrize("lines", ["", "# test.py\n\n"])
def test_no_command_is_an_error(lines):
    done = run(lines)
    assert done.returncode == 2 and done.stderr.startswith("error: found no command")


def test_a_closed_input_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="found no command"):
        in_one_process.main([])


def test_processes_that_share_the_input_are_refused():
    """One of them would take the lines, and wait for the others."""
    done = run("-m data.synthetic.shapes --help\n", LOCAL_WORLD_SIZE="2")
    assert done.returncode == 2 and "torchrun" in done.stderr


def test_help_is_no_failure(tmp_path):
    done = run(f"test.py --help\n{SHAPES.format(folder=tmp_path, name='next')}\n")
    assert done.returncode == 0, done.stderr
    assert "usage: test" in done.stdout and (tmp_path / "next").is_dir()


def test_what_a_command_asks_of_pytorch_ends_with_it(monkeypatch, workshop, tmp_path):
    """The number of threads decides the order of sums, and so the bits of what is trained."""
    found = {name: getattr(torch, f"get_{name}")() for name in in_one_process.SETTINGS}
    monkeypatch.setattr(sys, "argv", sys.argv)
    words = ["test.py", str(workshop.teacher), "--device", "cpu", "--threads", "3"]
    words += ["--results", str(tmp_path / "results.csv"), "--pictures", str(tmp_path)]
    in_one_process.run(words)
    assert "cpu, 3 threads" in (tmp_path / "results.csv").read_text()
    assert found == {name: getattr(torch, f"get_{name}")() for name in in_one_process.SETTINGS}


def test_a_preparation_leaves_the_threads_of_what_follows(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sys, "argv", sys.argv)
    words = "--shapes-train 1 --shapes-test 1 --points 64 --image-size 16 --workers 2"
    line = f"-m data.prepare --shapes --name Tiny --root {tmp_path} {words}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    in_one_process.main([])
    assert "prepared 32 of 32" in capsys.readouterr().out
    assert "OMP_NUM_THREADS" not in os.environ
