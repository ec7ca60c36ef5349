"""Stands in for ``python`` in the shell scripts: every line goes through the program's own parser,
and nothing is run. Prints what a script reads from the program."""

import sys

sys.path.insert(0, ".")

import export_teacher  # noqa: E402
import test as test_program  # noqa: E402
from data import prepare  # noqa: E402
from scripts import choose_weight, make_tables, overview  # noqa: E402
from utils.config import load_config  # noqa: E402
from utils.errors import run_main  # noqa: E402
from utils.settings import StudentConfig, TeacherConfig  # noqa: E402

PARSERS = {
    "train_teacher.py": lambda words: load_config(TeacherConfig, words),
    "train_student.py": lambda words: load_config(StudentConfig, words),
    "export_teacher.py": export_teacher.parse,
    "test.py": test_program.parse,
    "data.prepare": prepare.parse_options,
    "scripts.make_tables": make_tables.parse,
    "scripts.overview": overview.parse,
    "scripts.choose_weight": choose_weight.parse,
}


def main() -> None:
    program, *words = sys.argv[2:] if sys.argv[1] == "-m" else sys.argv[1:]
    PARSERS[program](words)
    if program == "scripts.choose_weight":
        print("1")
    else:
        print("parsed", program)


if __name__ == "__main__":
    run_main(main)
