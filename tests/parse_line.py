"""Stands in for ``python`` in the shell scripts: every line goes through the program's own parser,
and nothing is run. Prints what a script reads from the program."""

import importlib
import sys

sys.path.insert(0, ".")

from scripts.in_one_process import read_commands  # noqa: E402
from utils.config import load_config  # noqa: E402
from utils.errors import run_main  # noqa: E402
from utils.settings import StudentConfig, TeacherConfig  # noqa: E402

# Only what a line needs is imported: a script has many of them.
CONFIGURED = {"train_teacher.py": TeacherConfig, "train_student.py": StudentConfig}


def main(line: list[str]) -> None:
    program, *words = line[1:] if line[0] == "-m" else line
    if program == "scripts.in_one_process":
        for command in read_commands(sys.stdin):
            main(command)
    elif program in CONFIGURED:
        load_config(CONFIGURED[program], words)
    else:
        importlib.import_module(program.removesuffix(".py")).parse(words)
    if program == "scripts.choose_weight":
        print("1")
    else:
        print("parsed", program)


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
