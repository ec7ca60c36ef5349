"""Tables of results by earlier versions, in the words of today.

    python -m scripts.migrate_results                  expt/results.csv
    python -m scripts.migrate_results mine.csv ...     other tables

The column ``recipe`` names loss terms, as ``alignment`` what was ``distill``, in the order in which
they are registered. Rows that do so already stay as they are: run it as often as you like.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
from dataclasses import replace
from pathlib import Path

from models.terms import TERMS
from utils import results
from utils.errors import run_main

# What every role called its weights, and what they are called now.
RENAMED = {
    "student": {"distill": "alignment"},
    "teacher": {"shape": "task", "view": "views", "pixel": "pixels"},
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", metavar="FILE", type=Path, nargs="*", help="of test.py")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    for table in parse(arguments).tables or [Path("expt/results.csv")]:
        print(f"{table}: {results.rewrite(table, migrate)} rows changed")


def migrate(row: results.Result) -> results.Result:
    """The row with its recipe as it would be written now.

    Raises:
        ValueError: a weight of an unknown name, or a name without a weight.
    """
    weights, semicolon, rest = row.recipe.partition(";")
    if not semicolon or row.recipe.startswith("released,"):  # nothing was trained here
        return row
    terms = [name for name, term in TERMS.items() if row.role in term.roles]
    renamed = RENAMED.get(row.role, {})
    words = weights.split()
    found = dict(zip(words[::2], words[1::2], strict=False))
    unknown = [name for name in found if name not in {*terms, *renamed}]
    if unknown or 2 * len(found) != len(words):
        what = f"the unknown weight {unknown[0]!r}" if unknown else "names without a weight"
        raise ValueError(
            f"the recipe {row.recipe!r} of a {row.role} has {what}, expected some of {terms}, each "
            "with its number"
        )
    found = {renamed.get(name, name): weight for name, weight in found.items()}
    ordered = " ".join(f"{name} {found[name]}" for name in terms if name in found)
    return replace(row, recipe=f"{ordered};{rest}")


if __name__ == "__main__":
    run_main(main)
