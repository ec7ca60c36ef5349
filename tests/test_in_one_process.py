"""Commands in one process: each as if it ran alone, the first failure ends them."""

import io
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from scripts import in_one_process
from utils.errors import ConfigError

SHAPES = "-m data.shapes {folder}/{name} --train 1 --test 1"


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


def test_a_preparation_leaves_the_threads_of_what_follows(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sys, "argv", sys.argv)
    words = "--shapes-train 1 --shapes-test 1 --points 64 --image-size 16 --workers 2"
    line = f"-m data.prepare --shapes --name Tiny --root {tmp_path} {words}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    in_one_process.main([])
    assert "prepared 32 of 32" in capsys.readouterr().out
    assert "OMP_NUM_THREADS" not in os.environ
