"""What the table of methods says beside accuracies: from what the weights of a row were chosen, and
what its training costs, against the baseline of the same student."""

from __future__ import annotations

import re
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame, Series

METHODS = "_methods_"  # in the names of the runs, before encoder and method
CHOICE = "_choose"  # behind the method, in those of runs to choose weights from
ENDING = re.compile(r"(_shuffled|_shuffled_class)?_s\d+.*$")  # control, seed, what else differs
TRANSFORM = re.compile(r"transform \S+ ")  # is the same in all that are compared
SAME = ["data", "model", "epochs", "points"]  # of a row and its baseline


def annotate(rows: DataFrame) -> DataFrame:
    """The rows with the columns ``choice``, ``relative`` (seconds per epoch by those of the
    baseline on the same device) and ``extra`` (trained parameters more than the baseline's); empty
    or NaN where nothing is known.

    Args:
        rows: of all splits, one per run.
    """
    mine = rows.run.str.contains(METHODS) & ~rows.run.str.contains(CHOICE)
    mine &= rows.split == "test"
    found = {"choice": "", "relative": float("nan"), "extra": float("nan")}
    rows = rows.assign(**found)
    baselines = rows[mine & (rows.method == "baseline")]
    for place, row in rows[mine].iterrows():
        beside = _like(baselines, row, SAME)
        timed = _like(beside, row, ["train_device"])
        if len(timed):
            usual = mean(timed.train_seconds / timed.epochs)
            rows.loc[place, "relative"] = row.train_seconds / row.epochs / usual
        if len(beside):
            rows.loc[place, "extra"] = row.parameters - beside.parameters.iloc[0]
        rows.loc[place, "choice"] = _choice(rows, row)
    return rows


def _like(rows: DataFrame, row: Series, columns: list[str]) -> DataFrame:
    return rows[(rows[columns] == row[columns]).all(axis=1)]


def _choice(rows: DataFrame, row: Series) -> str:
    """``task 0.1: 74.5, task 1: 38.2``: accuracies on the held-out shapes."""
    tried = _like(rows[rows.split == "val"], row, SAME)
    tried = tried[tried.run.str.startswith(ENDING.sub(CHOICE, row.run))]
    weights = [TRANSFORM.sub("", recipe.partition(";")[0]) for recipe in tried.recipe]
    return ", ".join(f"{w}: {v:.1f}" for w, v in zip(weights, tried.overall, strict=True))


def name_choice(rows: DataFrame) -> str:
    return rows.choice.iloc[0] or "-"


def relative_seconds(rows: DataFrame) -> str:
    return "-" if rows.relative.isna().any() else f"{mean(rows.relative):.2f}"


def extra_parameters(rows: DataFrame) -> str:
    return "-" if rows.extra.isna().any() else f"{rows.extra.iloc[0]:,.0f}"


def peak_memory(rows: DataFrame) -> str:
    return "-" if rows.memory.isna().any() else f"{rows.memory.max():,.0f} MiB"
