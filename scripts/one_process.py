"""The jobs of a table script one after another in this process, which starts PyTorch only once.

    ... | python -m scripts.one_process --logs FOLDER

Reads lines ``name<tab>commands``, ``&&`` between commands that begin with ``python`` (or what
PYTHON in the environment says). What a job prints goes to ``FOLDER/name.log``, its last line here;
the first job that fails ends it, with its exit code. The peak memory of a CPU is then that of all
jobs so far.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import contextlib
import os
import shlex
import sys
from pathlib import Path

from scripts.demo import run
from utils.errors import UserError, run_main


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--logs", type=Path, required=True, help="folder of what the jobs print")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.logs.mkdir(parents=True, exist_ok=True)
    python = os.environ.get("PYTHON", "python")
    for line in sys.stdin:
        name, _, commands = line.rstrip("\n").partition("\t")
        log = options.logs / f"{name}.log"
        with open(log, "w") as file, contextlib.redirect_stdout(file):
            code = run_job([c.removeprefix(python).strip() for c in commands.split(" && ")])
        told = log.read_text().splitlines()
        print(*(["failed: see " + str(log)] * bool(code) + told[-1:]), sep="\n", flush=True)
        if code:
            return code
    return 0


def run_job(commands: list[str]) -> int:
    """The exit code of the first command that fails; an error of ours is printed as its line."""
    for command in commands:
        try:
            code = run(shlex.split(command))
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}")
            code = error.exit_code
        if code:
            return code
    return 0


if __name__ == "__main__":
    run_main(main)
