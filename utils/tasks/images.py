"""Views from their own codes, which needs no labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from utils import pictures
from utils.tasks.base import Arrays, Batch, Report, Task, drawable, lines_by_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Reconstruction(Task):
    """Views into themselves: an autoencoder, which has no accuracy and no row of results."""

    name = "autoencoder"
    drawn = "pixels"
    batch = 4

    def compute(self, batch: Batch) -> Batch:
        output = self.network.forward_batch(batch)
        error = (output.images - _targets(batch["views"], output.images)).abs()
        return {"error": error.flatten(1).mean(dim=1), "feature": output.global_feature}

    def measure(self, outputs: Arrays) -> dict[str, float]:
        return {"eval/pixel": float(outputs["error"].mean())}

    def predictions(self, outputs: Arrays) -> Arrays:
        return {"error": outputs["error"]}

    def report(self, outputs: Arrays) -> Report:
        lines = lines_by_class(self.classes, outputs["label"], outputs["error"], "error")
        mean = outputs["error"].mean()
        return Report({}, lines, f"mean absolute error {mean:.4f} of a pixel in 0..1")

    @torch.no_grad()
    def figure(self, outputs: Arrays, few: Callable[[], Batch]) -> Figure:
        batch = few()
        images = self.network.forward_batch(batch).images
        rows = [drawable(_targets(batch["views"], images)[:, 0]), drawable(images[:, 0])]
        names = [self.classes[label] for label in batch["label"].tolist()]
        return pictures.image_figure(rows, ("view", "reconstruction"), names)


def _targets(views: Tensor, images: Tensor) -> Tensor:
    """The views (B, V, 1 or 3, H, W) uint8 in 0..1, with the three channels of ``images``."""
    return (views.float() / 255).expand_as(images)
