"""Tables of results from the CSV: mean, deviation and number of seeds.

    python -m scripts.make_tables                                    print all tables
    python -m scripts.make_tables --data PSB26 --kind probe          one of them
    python -m scripts.make_tables --data bench_cpu --kind speed      expt/bench_cpu.json
    python -m scripts.make_tables --readme README.md                 fill the tables there

In the README a table stands between ``<!-- table NAME KIND -->`` and ``<!-- end of table -->``; the
kind ``classification`` may be left out. The other kinds are ``segmentation``, ``probe`` and
``ablation``: what runs with ``_ablation_`` in their names show, beside the baseline and the whole
method in the same setting. Published figures stand in a column of their own, from published.yaml.
A table of kind ``speed`` comes from NAME.json of ``scripts.bench``, beside the CSV.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev

import yaml

from scripts.benchmarks import report
from utils import results
from utils.errors import ConfigError, DataError, run_main
from utils.files import atomic_path
from utils.results import Result

PUBLISHED = Path(__file__).parent / "published.yaml"
ORDER = ["teacher", "student"]
ABLATION = "_ablation_"
SPEED = "speed"  # the kind of table that comes from a benchmark, not from the CSV


def spread(values: list[float | None]) -> str:
    """``mean ± deviation`` of the seeds (n - 1 in the deviation), without it for a single one."""
    if None in values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def column(name: str) -> Callable[[list[Result]], str]:
    return lambda rows: spread([getattr(row, name) for row in rows])


def name_model(rows: list[Result]) -> str:
    first = rows[0]
    return first.model + (" (teacher)" if first.role == "teacher" else f", {first.points} points")


def name_method(rows: list[Result]) -> str:
    first = rows[0]
    return first.method + ("" if first.protocol == "last epoch" else f" ({first.protocol})")


def name_place(rows: list[Result]) -> str:
    minutes = mean(row.train_seconds for row in rows) / 60
    devices = ", ".join(sorted({row.train_device for row in rows}))
    return f"{minutes:.1f}, {devices}" if devices else "-"


def name_commits(rows: list[Result]) -> str:
    return ", ".join(sorted({row.commit for row in rows} - {""})) or "-"


def probe_accuracy(rows: list[Result]) -> str:
    """Over seeds; of a single few-shot probe with the deviation of its episodes."""
    if len(rows) == 1 and rows[0].deviation is not None:
        return f"{rows[0].overall:.1f} ± {rows[0].deviation:.1f} (episodes)"
    return spread([row.overall for row in rows])


def name_probe(rows: list[Result]) -> str:
    chosen = sorted({float(found[1]) for row in rows if (found := CHOSEN_C.search(row.protocol))})
    joined = f"C {', '.join(f'{c:g}' for c in chosen)} of" if chosen else ""
    return CHOSEN_C.sub(joined, rows[0].protocol) if chosen else rows[0].protocol


CHOSEN_C = re.compile(r"C (\S+) of")  # it differs between the seeds of one protocol
Columns = Mapping[str, Callable[[list[Result]], str]]
BEGIN: Columns = {
    "model": name_model,
    "method": name_method,
    "loss weights, optimiser": lambda rows: rows[0].recipe,
    "epochs": lambda rows: str(rows[0].epochs),
}
ACCURACIES: Columns = {
    "overall accuracy": column("overall"),
    "mean class accuracy": column("mean_class"),
}
SEEDS: Columns = {"seeds": lambda rows: str(len(rows))}
END: Columns = {**SEEDS, "minutes a run, where": name_place, "commit": name_commits}
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
        "method": lambda rows: rows[0].method,
        "probe": name_probe,
        "epochs": BEGIN["epochs"],
        "overall accuracy": probe_accuracy,
        "mean class accuracy": column("mean_class"),
        **SEEDS,
        "commit": name_commits,
    },
    "ablation": {**BEGIN, **ACCURACIES, **END},
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", default="expt/results.csv")
    parser.add_argument("--data", help="only this data set")
    parser.add_argument(
        "--kind", choices=[*KINDS, SPEED], help="only this kind; default: all of the CSV"
    )
    parser.add_argument("--split", default="test", choices=["test", "val", "train"])
    parser.add_argument("--readme", type=Path, help="file whose tables are rewritten in place")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    benchmarks = Path(options.results).parent
    if options.kind == SPEED and not options.readme:
        if not options.data:
            raise ConfigError("--kind speed needs --data NAME, the file NAME.json of a benchmark")
        print(report.table(report.read(benchmarks / f"{options.data}.json")))
        return
    rows = latest([row for row in results.read(options.results) if row.split == options.split])
    if options.readme:
        rewrite(options.readme, rows, benchmarks)
        return
    if not rows:
        raise DataError(f"{options.results} has no row for the {options.split} split")
    names = [options.data] if options.data else sorted({row.data for row in rows})
    for name in names:
        found = [kind for kind in KINDS if select(rows, name, kind)]
        for kind in [options.kind] if options.kind else found or ["classification"]:
            print(f"{name}, {kind}, {options.split} split\n\n{table(rows, name, kind)}")


def latest(rows: list[Result]) -> list[Result]:
    """One row per run, set and protocol, the last that was tested."""
    keys = [(row.role, row.run, row.data, row.split, row.task, protocol(row)) for row in rows]
    return list(dict(zip(keys, rows, strict=True)).values())


def protocol(row: Result) -> str:
    return CHOSEN_C.sub("C of", row.protocol)


def setting(row: Result) -> tuple:
    """Rows that differ in nothing of this are seeds of one line."""
    return (row.model, row.method, row.recipe, row.epochs, row.points, protocol(row))


def select(rows: list[Result], data: str, kind: str) -> list[Result]:
    """The rows of one table."""
    rows = [row for row in rows if row.data == data]
    if kind == "probe":
        return [row for row in rows if row.task in ("svm", "fewshot")]
    if kind == "segmentation":
        return [row for row in rows if row.task == "segmentation"]
    rows = [row for row in rows if row.task == "classification"]
    whole = [row for row in rows if ABLATION not in row.run]
    changed = [row for row in rows if ABLATION in row.run]
    if kind == "classification":
        return whole
    compared = {(row.model, row.epochs, row.points) for row in changed}
    return changed + [row for row in whole if (row.model, row.epochs, row.points) in compared]


def table(rows: list[Result], data: str, kind: str = "classification") -> str:
    """Markdown table of one kind for one data set, a line for all seeds of a setting.

    Raises:
        DataError: no such row for this set.
    """
    groups: dict[tuple, list[Result]] = defaultdict(list)
    for row in select(rows, data, kind):
        groups[(row.role, *setting(row))].append(row)
    if not groups:
        known = sorted({row.data for row in rows})
        raise DataError(f"the table of results has no row for {data} ({kind}); it has {known}")
    columns = KINDS[kind]
    lines = [
        # of several runs with one seed, the last counts
        [cell(list({row.seed: row for row in groups[key]}.values())) for cell in columns.values()]
        for key in sorted(groups, key=lambda key: (ORDER.index(key[0]), *map(str, key[1:])))
    ]
    titles = list(columns)
    published = yaml.safe_load(PUBLISHED.read_text()).get(data, {}).get(kind, [])
    published = [line for line in published if line[0] in {row.model for row in rows}]
    if published:
        titles.append("published (source)")
        lines = [[*line, ""] for line in lines]
        blank = [""] * (len(columns) - 2)
        lines += [[model, what, *blank, f"{v} ({source})"] for model, what, v, source in published]
    head, *body = (f"| {' | '.join(line)} |\n" for line in [titles, *lines])
    return head + "|" + "---|" * len(titles) + "\n" + "".join(body)


def rewrite(readme: Path, rows: list[Result], benchmarks: Path) -> None:
    """Replace every table between markers in ``readme``; ``benchmarks`` is the folder of those.

    Raises:
        DataError: the file is missing or has no marker, or a benchmark cannot be read.
        ConfigError: an unknown kind.
    """
    if not readme.is_file():
        raise DataError(f"no file {readme}")
    text = readme.read_text()
    pattern = re.compile(
        r"(<!-- table (\S+)(?: (\S+))? -->\n).*?(<!-- end of table -->)", re.DOTALL
    )
    if not pattern.search(text):
        raise DataError(f"{readme} has no <!-- table NAME --> ... <!-- end of table --> to fill")

    def fill(found: re.Match) -> str:
        kind = found[3] or "classification"
        if kind == SPEED:
            path = benchmarks / f"{found[2]}.json"
            measured = report.table(report.read(path)) if path.is_file() else "Not measured yet.\n"
            return found[1] + measured + found[4]
        if kind not in KINDS:
            known = [*KINDS, SPEED]
            raise ConfigError(f"{readme}: a table of kind {kind!r}, expected one of {known}")
        if not select(rows, found[2], kind):
            print(f"no rows of {found[2]} ({kind}) yet")
            return f"{found[1]}No runs yet.\n{found[4]}"
        return found[1] + table(rows, found[2], kind) + found[4]

    filled = pattern.sub(fill, text)
    with atomic_path(readme) as temporary:
        temporary.write_text(filled)


if __name__ == "__main__":
    run_main(main)
