"""Clouds from the codes of shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from utils import pictures
from utils.tasks.base import Arrays, Batch, Report, Task, lines_by_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Generation(Task):
    """Clouds that are to be those of the shapes: how far they are from them, in units of the
    longest side of a cloud's box. A generator has no accuracy and no row of results."""

    name = "generation"
    truth = ("points",)
    drawn = "clouds"
    batch = 32

    def compute(self, batch: Batch) -> Batch:
        clouds = self.network.forward_batch(batch)
        distance = self.network.distance(clouds, batch["points"])
        return {"distance": distance, "feature": batch["codes"]}

    def measure(self, outputs: Arrays) -> dict[str, float]:
        return {"eval/emd": float(outputs["distance"].mean())}

    def predictions(self, outputs: Arrays) -> Arrays:
        return {"distance": outputs["distance"]}

    def report(self, outputs: Arrays) -> Report:
        lines = lines_by_class(self.classes, outputs["label"], outputs["distance"], "distance")
        mean = outputs["distance"].mean()
        return Report({}, lines, f"mean earth mover's distance {mean:.4f} of the longest side")

    @torch.no_grad()
    def figure(self, outputs: Arrays, few: Callable[[], Batch]) -> Figure:
        batch = few()
        made = self.network.forward_batch(batch)
        rows = [clouds.float().cpu().numpy() for clouds in (batch["points"], made)]
        names = [self.classes[label] for label in batch["label"].tolist()]
        return pictures.cloud_figure(rows, ("cloud", "generated"), names)
