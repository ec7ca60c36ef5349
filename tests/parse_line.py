"""Stands in for ``python`` in the shell scripts: every line goes through the program's own parser,
and nothing is run."""

import importlib
import sys
from typing import Any

sys.path.insert(0, ".")

from scripts.demo import locate  # noqa: E402
from utils.config import load_config  # noqa: E402
from utils.errors import run_main  # noqa: E402
from utils.settings import StudentConfig  # noqa: E402

# Only what a line needs is imported: a script has many of them.
CONFIGURED = {"train_teacher", "train_student"}


def parse_line(line: list[str]) -> Any:
    """What the program of a line behind ``python`` reads in it: its settings or options."""
    module, arguments = locate(line)
    if module in CONFIGURED:
        from models.terms import teacher_schema, with_terms

        schema = with_terms(StudentConfig) if module == "train_student" else teacher_schema
        return load_config(schema, arguments)
    return importlib.import_module(module).parse(arguments)


def main(line: list[str]) -> None:
    parse_line(line)
    print(f"parsed {locate(line)[0]}")


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
