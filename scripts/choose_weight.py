"""The task weight of a baseline, chosen on held-out shapes of train.

    python -m scripts.choose_weight --data PSB26 --model pointnet --epochs 30

Reads the validation rows of the table of results and prints the weight with the best overall
accuracy, or instance mIoU in part segmentation (mean over seeds; the smaller weight if two are
equal).
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
from statistics import mean
from typing import TYPE_CHECKING

from scripts.make_tables import latest
from utils import results
from utils.errors import DataError, run_main

if TYPE_CHECKING:
    from pandas import DataFrame


BASELINE = r"(transform \S+ )?task \S+;.*"  # recipes of its own task and nothing else


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", default="expt/results.csv")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--epochs", type=int, help="of the runs to compare; default: any")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    rows = results.frame(results.read(options.results))
    print(f"{choose(rows, options.data, options.model, options.epochs):g}")


def choose(rows: DataFrame, data: str, model: str, epochs: int | None) -> float:
    """The task weight whose baselines do best on the validation split.

    Raises:
        DataError: no baseline of this model was tested on a validation split of this set.
    """
    rows = latest(rows)
    rows = rows[(rows.data == data) & (rows.model == model)]
    rows = rows[(rows.split == "val") & (rows.method == "baseline")]
    rows = rows[rows.recipe.str.fullmatch(BASELINE)]
    if epochs:
        rows = rows[rows.epochs == epochs]
    if rows.empty:
        raise DataError(
            f"no baseline of {model} with {epochs or 'any'} epochs was tested on the validation "
            f"split of {data}: train with terms.alignment.weight=0 protocol.val_fraction=0.2 and "
            "test with --split val"
        )
    scores = rows.overall.where(rows.task != "segmentation", rows.instance_miou)
    return scores.groupby(rows.recipe.map(task_weight)).agg(mean).idxmax()  # the first of the best


def task_weight(recipe: str) -> float:
    """The number behind ``task`` in a recipe such as ``transform 0.001 task 0.1; sgd 0.1``."""
    weights = recipe.partition(";")[0].split()
    return float(weights[weights.index("task") + 1])


if __name__ == "__main__":
    run_main(main)
