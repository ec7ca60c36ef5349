"""Tables of results from the CSV: mean, deviation and number of seeds.

    python -m scripts.make_tables                       print all tables
    python -m scripts.make_tables --data PSB26          one data set
    python -m scripts.make_tables --readme README.md    rewrite the tables between its markers

In the README a table stands between ``<!-- table NAME -->`` and ``<!-- end of table -->``.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from utils import results
from utils.errors import DataError, run_main
from utils.files import atomic_path
from utils.results import Result

HEADER = (
    "| model | method | loss weights, optimiser | epochs | overall accuracy | mean class accuracy "
    "| seeds | minutes a run, where | commit |\n|---|---|---|---|---|---|---|---|---|\n"
)
ORDER = ["teacher", "student"]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", default="expt/results.csv")
    parser.add_argument("--data", help="only this data set")
    parser.add_argument("--split", default="test", choices=["test", "val", "train"])
    parser.add_argument("--readme", type=Path, help="file whose tables are rewritten in place")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    rows = latest([row for row in results.read(options.results) if row.split == options.split])
    if options.readme:
        rewrite(options.readme, rows)
        return
    if not rows:
        raise DataError(f"{options.results} has no row for the {options.split} split")
    names = [options.data] if options.data else sorted({row.data for row in rows})
    for name in names:
        print(f"{name}, {options.split} split\n\n{table(rows, name)}")


def latest(rows: list[Result]) -> list[Result]:
    """One row a run and set, the last that was tested."""
    return list({(row.role, row.run, row.data, row.split): row for row in rows}.values())


def table(rows: list[Result], data: str) -> str:
    """Markdown table of one data set, a line for all seeds of a setting.

    Raises:
        DataError: no row for this set.
    """
    groups: dict[tuple, list[Result]] = defaultdict(list)
    for row in rows:
        if row.data == data:
            setting = (row.recipe, row.epochs, row.points, row.protocol)
            groups[row.role, row.model, row.method, *setting].append(row)
    if not groups:
        known = sorted({row.data for row in rows})
        raise DataError(f"the table of results has no row for {data}, only for {known}")
    ordered = sorted(groups, key=lambda key: (ORDER.index(key[0]), *map(str, key[1:])))
    return HEADER + "".join(line(groups[key]) for key in ordered)


def line(rows: list[Result]) -> str:
    """One line for the seeds of one setting; of several runs with one seed, the last counts."""
    rows = list({row.seed: row for row in rows}.values())
    first = rows[0]
    model = first.model + (" (teacher)" if first.role == "teacher" else f", {first.points} points")
    minutes = mean(row.train_seconds for row in rows) / 60
    devices = ", ".join(sorted({row.train_device for row in rows}))
    commits = ", ".join(sorted({row.commit for row in rows}))
    held_out = "" if first.protocol == "last epoch" else f" ({first.protocol})"
    return (
        f"| {model} | {first.method}{held_out} | {first.recipe} | {first.epochs} "
        f"| {spread([row.overall for row in rows])} | {spread([row.mean_class for row in rows])} "
        f"| {len(rows)} | {minutes:.1f}, {devices} | {commits} |\n"
    )


def spread(values: list[float]) -> str:
    """``mean ± deviation`` of the seeds (n - 1 in the deviation), without it for a single one."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def rewrite(readme: Path, rows: list[Result]) -> None:
    """Replace every table between markers in ``readme``.

    Raises:
        DataError: the file is missing or has no marker.
    """
    if not readme.is_file():
        raise DataError(f"no file {readme}")
    text = readme.read_text()
    pattern = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
    if not pattern.search(text):
        raise DataError(f"{readme} has no <!-- table NAME --> ... <!-- end of table --> to fill")
    filled = pattern.sub(lambda found: found[1] + table(rows, found[2]) + found[3], text)
    with atomic_path(readme) as temporary:
        temporary.write_text(filled)


if __name__ == "__main__":
    run_main(main)
