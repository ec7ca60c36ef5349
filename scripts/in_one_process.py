"""Run commands of this project one after another in one process, which starts PyTorch only once.

    python -m scripts.in_one_process <<LINES
    train_teacher.py scripts/configs/teacher.yaml data.name=NAME run.name=RUN
    export_teacher.py ckpt/teacher/RUN.pth
    LINES

Standard input has a command a line, as it would stand behind ``python``; blank lines and what
follows a ``#`` are left out. Each is printed and run as it would be by itself. The first that fails
ends the process, with its exit code.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from utils.errors import ConfigError, run_main

ROOT = Path(__file__).resolve().parent.parent


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    parse(arguments)
    for words in read_commands(sys.stdin):
        run(words)


def read_commands(lines: Iterable[str]) -> list[list[str]]:
    """The words of every command.

    Raises:
        ConfigError: a line that is not ``PROGRAM.py ...`` or ``-m MODULE ...`` of this project, or
            one with an open quote.
    """
    try:
        commands = [shlex.split(line, comments=True) for line in lines]
    except ValueError as error:
        raise ConfigError(f"found a line that no shell would take: {error}") from error
    commands = [words for words in commands if words]
    for words in commands:
        module_of(words)
    return commands


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """The module that a command runs, and its arguments. Nothing is imported.

    Raises:
        ConfigError: as :func:`read_commands`.
    """
    if words[0] == "-m":
        name, arguments = (words[1] if len(words) > 1 else ""), words[2:]
    else:
        name, arguments = words[0].removesuffix(".py"), words[1:]
    path = ROOT / f"{name.replace('.', '/')}.py"  # not asked of Python: "os" is none of ours
    is_script = words[0] == "-m" or (words[0].endswith(".py") and "/" not in words[0])
    if not (name and is_script and path.is_file() and "\ndef main(" in path.read_text()):
        raise ConfigError(
            f"found the line {shlex.join(words)!r}, expected PROGRAM.py or -m MODULE of this "
            "project and its arguments, as behind python"
        )
    return name, arguments


def run(words: list[str]) -> None:
    """One command; leaves the process only if it fails."""
    name, arguments = module_of(words)
    print(f"\n$ python {shlex.join(words)}", flush=True)
    sys.argv = [name, *arguments]  # what a program says of its usage begins with its name
    importlib.import_module(name).main(arguments)


if __name__ == "__main__":
    run_main(main)
