"""An overview picture: test shapes with some views, what one view sees, and what students say.

python -m scripts.overview ckpt/student/A.pth ckpt/student/B.pth --output FILE.png
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from data.datasets import ShapeSet
from data.rendering.cameras import unpack_visibility
from data.storage import PreparedSplit, open_split
from data.subsets import Subset
from models.loading import build_model
from utils.checkpoint import read_model
from utils.engine import predict
from utils.errors import DataError, run_main
from utils.pictures import save_figure, scatter_cloud
from utils.settings import PointDataSettings
from utils.tasks import require_labels

VIEWS = (0, 3, 6)  # of those shown, the first colours the cloud
ROWS = 6


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("students", nargs="+", help="checkpoints trained on one prepared set")
    parser.add_argument("--output", type=Path, default=Path("expt/overview.png"))
    parser.add_argument("--seed", type=int, default=0, help="which shapes are drawn")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    contents = {Path(path).stem: read_model(path, "student") for path in options.students}
    sets = {content["config"]["data"]["name"] for content in contents.values()}
    if len(sets) > 1:
        raise DataError(f"the students were trained on different sets, {sorted(sets)}")
    for path, content in zip(options.students, contents.values(), strict=True):
        require_labels(content, path)
        if content["build"].get("task", "classification") != "classification":
            raise DataError(f"{path} divides shapes into parts: this picture is of classes")
    data = next(iter(contents.values()))["config"]["data"]
    split = open_split(data["name"], "test", data["root"])
    answers = {name: answer(content, name, split) for name, content in contents.items()}
    save_figure(draw(split, answers, options.seed), options.output)
    print(f"overview picture: {options.output}")


def answer(content: dict, name: str, split: PreparedSplit) -> np.ndarray:
    """Class probabilities (S, K) of one student on every shape of a split."""
    student = build_model(content, name)
    subset = Subset.whole(split)
    data = content["config"]["data"]
    settings = PointDataSettings(name=data["name"], points=data["points"])
    shapes = ShapeSet(subset, {"points"}, settings, torch.device("cpu"))
    return predict(
        student,
        shapes.evaluation(64),
        lambda batch: {"scores": student(batch["points"]).logits.softmax(dim=1)},
    )["scores"]


def draw(split: PreparedSplit, answers: dict[str, np.ndarray], seed: int) -> Figure:
    """One row per shape: its views, its cloud, and the answers, right ones in green."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split.ids))[:ROWS])
    points = split.points()
    visible = unpack_visibility(split.visibility(), split.num_views)
    columns = len(VIEWS) + 2
    figure = Figure(figsize=(2.1 * columns, 2.0 * len(chosen)), layout="constrained")
    figure.suptitle(f"{split.name}: views, what the first view sees (orange), answers")
    for row, shape in enumerate(chosen):
        views = split.views(shape)
        for column, view in enumerate(VIEWS):
            axes = figure.add_subplot(len(chosen), columns, row * columns + column + 1)
            axes.imshow(views[view % split.num_views], cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
        place = row * columns + len(VIEWS) + 1
        axes = figure.add_subplot(len(chosen), columns, place, projection="3d")
        scatter_cloud(axes, points[shape], visible[shape, :, VIEWS[0]])
        axes = figure.add_subplot(len(chosen), columns, place + 1)
        axes.set_axis_off()
        label = split.labels[shape]
        axes.text(0, 0.9, split.class_names[label], fontsize=10, weight="bold")
        for line, (name, scores) in enumerate(answers.items()):
            best = scores[shape].argmax()
            text = f"{name}:\n{split.class_names[best]} {100 * scores[shape, best]:.0f} %"
            colour = "tab:green" if best == label else "tab:red"
            axes.text(0, 0.55 - 0.4 * line, text, fontsize=8, color=colour)
    return figure


if __name__ == "__main__":
    run_main(main)
