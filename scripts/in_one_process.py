"""Run commands of this project one after another in one process, which starts PyTorch only once.

    python -m scripts.in_one_process <<LINES
    train_teacher.py scripts/configs/teacher.yaml data.name=NAME run.name=RUN
    export_teacher.py ckpt/teacher/RUN.pth
    LINES

Standard input has a command a line, as it would stand behind ``python``; blank lines and what
follows a ``#`` are left out, as a shell does. Each is printed and run as it would be by itself. The
first that fails ends the process, with its exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.errors import ConfigError, run_main
from utils.machine import local_processes

ROOT = Path(__file__).resolve().parent.parent
# Of PyTorch, by the names behind get_ and set_: what utils.device.prepare_process changes.
SETTINGS = ("num_threads", "deterministic_debug_mode", "float32_matmul_precision")
HASH = "\0"  # stands for a # that begins no comment: no command can hold it


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    parse(arguments)
    if local_processes() > 1:  # they have one input together: a line would reach one of them
        raise ConfigError("torchrun starts a single program: run the commands one by one with it")
    commands = read_commands(sys.stdin or [])  # None where it was closed
    if not commands:
        raise ConfigError("found no command on standard input, expected one on each line")
    for words in commands:
        run(words)


def read_commands(lines: Iterable[str]) -> list[list[str]]:
    """The words of every command.

    Raises:
        ConfigError: a line that is not ``PROGRAM.py ...`` or ``-m MODULE ...`` of this project, or
            one with an open quote.
    """
    try:
        commands = [split(line) for line in lines]
    except ValueError as error:
        raise ConfigError(f"found a line that no shell would take: {error}") from error
    commands = [words for words in commands if words]
    for words in commands:
        module_of(words)
    return commands


def split(line: str) -> list[str]:
    """The words of a line. To a shell, and not to shlex, a # within a word is part of it."""
    words = shlex.split(re.sub(r"(?<=\S)#", HASH, line), comments=True)
    return [word.replace(HASH, "#") for word in words]


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """The module that a command runs, and its arguments. Nothing is imported.

    Raises:
        ConfigError: as :func:`read_commands`.
    """
    if words[0] == "-m":
        name, arguments = (words[1] if len(words) > 1 else ""), words[2:]
        is_name = re.fullmatch(r"\w+(\.\w+)*", name)
    else:
        name, arguments = words[0].removesuffix(".py"), words[1:]
        is_name = re.fullmatch(r"\w+\.py", words[0])
    path = ROOT / f"{name.replace('.', '/')}.py"  # not asked of Python: "os" is none of ours
    if not (is_name and path.is_file() and "\ndef main(" in path.read_text()):
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
    program = importlib.import_module(name)
    try:
        with pytorch_as_found():
            program.main(arguments)
    except SystemExit as end:
        if end.code:  # otherwise it has done what it was asked for, such as --help
            raise


@contextlib.contextmanager
def pytorch_as_found() -> Iterator[None]:
    """What a command asks of PyTorch for its process, such as ``--threads``, ends with it."""
    torch = sys.modules.get("torch")
    if torch is None:  # a command that does without, such as a preparation
        yield
        return
    found = {name: getattr(torch, f"get_{name}")() for name in SETTINGS}
    try:
        yield
    finally:
        for name, value in found.items():
            if getattr(torch, f"get_{name}")() != value:
                getattr(torch, f"set_{name}")(value)


if __name__ == "__main__":
    run_main(main)
