"""Tables of results from the CSV: mean, deviation and number of seeds.

    python -m scripts.make_tables                                print all tables
    python -m scripts.make_tables --data PSB26 --kind probe      one of them
    python -m scripts.make_tables --data bench_cpu --kind speed  expt/bench_cpu.json
    python -m scripts.make_tables --into                         fill expt/ and scripts/README.md
    python -m scripts.make_tables --into FILE ...                fill other files

In a file a table stands between ``<!-- table NAME KIND -->`` and ``<!-- end of table -->``; the
kind ``classification`` may be left out. The other kinds are ``segmentation``, ``probe``,
``ablation``: what runs with ``_ablation_`` in their names show, beside the baseline and the whole
method in the same setting, and ``methods``, those with ``_methods_``: see ``scripts/methods.py``.
Published figures stand in a column of their own, from published.yaml. A table of kind ``speed``
comes from NAME.json of ``scripts.bench``, beside the CSV.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import yaml

from scripts import methods
from scripts.benchmarks import report
from utils import results
from utils.errors import ConfigError, DataError, run_main
from utils.files import atomic_path

if TYPE_CHECKING:
    from pandas import DataFrame, Series

DOCUMENTS = (Path("expt/README.md"), Path("scripts/README.md"))
PUBLISHED = Path(__file__).parent / "published.yaml"
ORDER = ["teacher", "student"]
ABLATION = "_ablation_"
SPEED = "speed"  # the kind of table that comes from a benchmark, not from the CSV


def spread(values: Series) -> str:
    """``mean ± deviation`` of the seeds (n - 1 in the deviation), without it for a single one.

    By ``statistics``, which rounds once: in pandas' mean a 47.95 may become a 47.9.
    """
    if values.isna().any():
        return "-"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def column(name: str) -> Callable[[DataFrame], str]:
    return lambda rows: spread(rows[name])


def name_model(rows: DataFrame) -> str:
    row = rows.iloc[0]
    return row.model + (" (teacher)" if row.role == "teacher" else f", {row.points} points")


def name_method(rows: DataFrame) -> str:
    row = rows.iloc[0]
    return row.method + ("" if row.protocol == "last epoch" else f" ({row.protocol})")


def name_place(rows: DataFrame) -> str:
    devices = ", ".join(sorted(set(rows.train_device)))
    return f"{mean(rows.train_seconds) / 60:.1f}, {devices}" if devices else "-"


def name_commits(rows: DataFrame) -> str:
    return ", ".join(sorted(set(rows.commit) - {""})) or "-"


def probe_accuracy(rows: DataFrame) -> str:
    """Over seeds; of a single few-shot probe with the deviation of its episodes."""
    if len(rows) == 1 and rows.deviation.notna().all():
        return f"{rows.overall.iloc[0]:.1f} ± {rows.deviation.iloc[0]:.1f} (episodes)"
    return spread(rows.overall)


def name_probe(rows: DataFrame) -> str:
    chosen = rows.protocol.str.extract(CHOSEN_C)[0].dropna().astype(float)
    joined = f"C {', '.join(f'{c:g}' for c in sorted(set(chosen)))} of"
    return CHOSEN_C.sub(joined, rows.protocol.iloc[0])


CHOSEN_C = re.compile(r"C (\S+) of")  # it differs between the seeds of one protocol
SETTING = ["role", "model", "method", "recipe", "epochs", "points", "fitted"]
Columns = Mapping[str, Callable[["DataFrame"], str]]
BEGIN: Columns = {
    "model": name_model,
    "method": name_method,
    "loss weights, optimiser": lambda rows: rows.recipe.iloc[0],
    "epochs": lambda rows: str(rows.epochs.iloc[0]),
}
ACCURACIES: Columns = {
    "overall accuracy": column("overall"),
    "mean class accuracy": column("mean_class"),
}
SEEDS: Columns = {"seeds": lambda rows: str(len(rows))}
END: Columns = {**SEEDS, "minutes per run, where": name_place, "commit": name_commits}
KINDS: dict[str, Columns] = {
    "classification": {**BEGIN, **ACCURACIES, **END},
    "segmentation": {
        **BEGIN,
        "instance mIoU": column("instance_miou"),
        "class mIoU": column("class_miou"),
        "instance mIoU, lenient": column("instance_miou_lenient"),
        "class mIoU, lenient": column("class_miou_lenient"),
        "points right": column("overall"),
        **END,
    },
    "probe": {
        "model": name_model,
        "method": lambda rows: rows.method.iloc[0],
        "probe": name_probe,
        "epochs": BEGIN["epochs"],
        "overall accuracy": probe_accuracy,
        "mean class accuracy": column("mean_class"),
        **SEEDS,
        "commit": name_commits,
    },
    "ablation": {**BEGIN, **ACCURACIES, **END},
    "methods": {
        **BEGIN,
        "held-out accuracy of the weights that were tried": methods.name_choice,
        **ACCURACIES,
        **SEEDS,
        "seconds per epoch, by the baseline's": methods.relative_seconds,
        "parameters more than the baseline": methods.extra_parameters,
        "memory": methods.peak_memory,
        "minutes per run, where": name_place,
        "commit": name_commits,
    },
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", default="expt/results.csv")
    parser.add_argument("--data", help="only this data set")
    parser.add_argument(
        "--kind", choices=[*KINDS, SPEED], help="only this kind; default: all of the CSV"
    )
    parser.add_argument("--split", default="test", choices=["test", "val", "train"])
    parser.add_argument("--into", type=Path, nargs="*", help="rewrite the tables of these files")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    benchmarks = Path(options.results).parent
    if options.kind == SPEED and options.into is None:
        if not options.data:
            raise ConfigError("--kind speed needs --data NAME, the file NAME.json of a benchmark")
        print(report.table(report.read(benchmarks / f"{options.data}.json")))
        return
    rows = results.frame(results.read(options.results))
    rows = methods.annotate(latest(rows))
    rows = rows[rows.split == options.split]
    if options.into is not None:
        for document in options.into or DOCUMENTS:
            rewrite(document, rows, benchmarks)
        return
    if rows.empty:
        raise DataError(f"{options.results} has no row for the {options.split} split")
    for name in [options.data] if options.data else sorted(set(rows.data)):
        found = [kind for kind in KINDS if not select(rows, name, kind).empty]
        for kind in [options.kind] if options.kind else found or ["classification"]:
            print(f"{name}, {kind}, {options.split} split\n\n{table(rows, name, kind)}")


def latest(rows: DataFrame) -> DataFrame:
    """One row per run, set and protocol, the last that was tested; ``fitted`` is the protocol
    without the constant that was chosen."""
    rows = rows.assign(fitted=rows.protocol.str.replace(CHOSEN_C, "C of", regex=True))
    return rows.drop_duplicates(["role", "run", "data", "split", "task", "fitted"], keep="last")


def select(rows: DataFrame, data: str, kind: str) -> DataFrame:
    """The rows of one table."""
    rows = rows[rows.data == data]
    if kind == "probe":
        return rows[rows.task.isin(["svm", "fewshot"])]
    if kind == "segmentation":
        return rows[rows.task == "segmentation"]
    rows = rows[rows.task == "classification"]
    compared = rows.run.str.contains(methods.METHODS)
    if kind == "methods":
        return rows[compared | (rows.role == "teacher")] if compared.any() else rows[compared]
    rows = rows[~compared]
    changed = rows.run.str.contains(ABLATION)
    if kind == "classification":
        return rows[~changed]
    compared = ["model", "epochs", "points"]
    return rows.merge(rows.loc[changed, compared].drop_duplicates())


def table(rows: DataFrame, data: str, kind: str = "classification") -> str:
    """Markdown table of one kind for one data set, a line for all seeds of a setting.

    Args:
        rows: of :func:`latest`.

    Raises:
        DataError: no such row for this set.
    """
    chosen = select(rows, data, kind)
    if chosen.empty:
        known = sorted(set(rows.data))
        raise DataError(f"the table of results has no row for {data} ({kind}); it has {known}")
    # of several runs with one seed, the last counts
    chosen = chosen.drop_duplicates([*SETTING, "seed"], keep="last")
    groups = sorted(
        chosen.groupby(SETTING), key=lambda group: (ORDER.index(group[0][0]), *map(str, group[0]))
    )
    columns = KINDS[kind]
    lines = [[cell(seeds) for cell in columns.values()] for _, seeds in groups]
    titles = list(columns)
    published = yaml.safe_load(PUBLISHED.read_text()).get(data, {}).get(kind, [])
    published = [line for line in published if line[0] in set(rows.model)]
    if published:
        titles.append("published (source)")
        lines = [[*line, ""] for line in lines]
        blank = [""] * (len(columns) - 2)
        lines += [[model, what, *blank, f"{v} ({source})"] for model, what, v, source in published]
    head, *body = (f"| {' | '.join(line)} |\n" for line in [titles, *lines])
    return head + "|" + "---|" * len(titles) + "\n" + "".join(body)


def rewrite(document: Path, rows: DataFrame, benchmarks: Path) -> None:
    """Replace every table between markers in ``document``; ``benchmarks`` is the folder of those.

    Raises:
        DataError: the file is missing or has no marker, or a benchmark cannot be read.
        ConfigError: an unknown kind.
    """
    if not document.is_file():
        raise DataError(f"no file {document}")
    text = document.read_text()
    pattern = re.compile(
        r"(<!-- table (\S+)(?: (\S+))? -->\n).*?(<!-- end of table -->)", re.DOTALL
    )
    if not pattern.search(text):
        raise DataError(f"{document} has no <!-- table NAME --> ... <!-- end of table --> to fill")

    def fill(found: re.Match) -> str:
        kind = found[3] or "classification"
        if kind == SPEED:
            path = benchmarks / f"{found[2]}.json"
            measured = report.table(report.read(path)) if path.is_file() else "Not measured yet.\n"
            return found[1] + measured + found[4]
        if kind not in KINDS:
            known = [*KINDS, SPEED]
            raise ConfigError(f"{document}: a table of kind {kind!r}, expected one of {known}")
        if select(rows, found[2], kind).empty:
            print(f"no rows of {found[2]} ({kind}) yet")
            return f"{found[1]}No runs yet.\n{found[4]}"
        return found[1] + table(rows, found[2], kind) + found[4]

    filled = pattern.sub(fill, text)
    with atomic_path(document) as temporary:
        temporary.write_text(filled)


if __name__ == "__main__":
    run_main(main)
