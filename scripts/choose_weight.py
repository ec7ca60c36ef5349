"""The task weight of a baseline, or the weights of any method, chosen on held-out shapes of train.

    python -m scripts.choose_weight --data PSB26 --model pointnet --epochs 30
    python -m scripts.choose_weight --data PSB26 --model pointnet --runs PSB26_methods_logits_

Reads the validation rows of the table of results and prints the weight with the best overall
accuracy, or instance mIoU in part segmentation (mean over seeds; the smaller weight if two are
equal). With --runs it compares the runs whose names begin so and prints how the best one's goes on
(of equal ones the first in the alphabet).
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
from statistics import mean
from typing import TYPE_CHECKING

from scripts.make_tables import latest
from scripts.methods import METHODS
from utils import results
from utils.errors import DataError, run_main

if TYPE_CHECKING:
    from pandas import DataFrame, Series

VOTE = "vote mean"
BASELINE = r"(transform \S+ )?task \S+;.*"  # recipes of its own task and nothing else


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", default="expt/results.csv")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--epochs", type=int, help="of the runs to compare; default: any")
    parser.add_argument("--runs", metavar="PREFIX", help="of the names of the runs to compare")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    rows = results.frame(results.read(options.results))
    if options.runs:
        print(choose_run(rows, options.data, options.model, options.epochs, options.runs))
    else:
        print(f"{choose(rows, options.data, options.model, options.epochs):g}")


def choose(rows: DataFrame, data: str, model: str, epochs: int | None) -> float:
    """The task weight whose baselines do best on the validation split.

    Raises:
        DataError: no baseline of this model was tested on a validation split of this set.
    """
    rows = held_out(rows, data, model, epochs)
    rows = rows[(rows.method == "baseline") & ~rows.run.str.contains(METHODS)]
    rows = rows[rows.recipe.str.fullmatch(BASELINE)]
    if rows.empty:
        raise DataError(
            f"no baseline of {model} with {epochs or 'any'} epochs was tested on the validation "
            f"split of {data}: train with terms.alignment.weight=0 protocol.val_fraction=0.2 and "
            "test with --split val"
        )
    weights = rows.recipe.map(task_weight)
    return scores(rows).groupby(weights).agg(mean).idxmax()  # the first of the best


def choose_run(rows: DataFrame, data: str, model: str, epochs: int | None, prefix: str) -> str:
    """What follows ``prefix`` in the name of the run that does best on the validation split.

    Raises:
        DataError: no such run was tested there.
    """
    rows = held_out(rows, data, model, epochs)
    rows = rows[rows.run.str.startswith(prefix)].sort_values("run")
    if rows.empty:
        raise DataError(
            f"no run {prefix}... of {model} with {epochs or 'any'} epochs was tested on the "
            f"validation split of {data}: train with protocol.val_fraction=0.2 and test with "
            "--split val"
        )
    return rows.run[scores(rows).idxmax()].removeprefix(prefix)


def held_out(rows: DataFrame, data: str, model: str, epochs: int | None) -> DataFrame:
    """The validation rows of a model by one pass."""
    rows = latest(rows)
    rows = rows[(rows.data == data) & (rows.model == model) & (rows.split == "val")]
    rows = rows[~rows.protocol.str.contains(VOTE)]
    return rows[rows.epochs == epochs] if epochs else rows


def scores(rows: DataFrame) -> Series:
    return rows.overall.where(rows.task != "segmentation", rows.instance_miou)


def task_weight(recipe: str) -> float:
    """The number behind ``task`` in a recipe such as ``transform 0.001 task 0.1; sgd 0.1``."""
    weights = recipe.partition(";")[0].split()
    return float(weights[weights.index("task") + 1])


if __name__ == "__main__":
    run_main(main)
