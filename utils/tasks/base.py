"""What a task is: what is computed of a batch, and how that is measured, reported and drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from utils import pictures
from utils.part_metrics import Ranges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = dict[str, Tensor]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Report:
    """``columns`` of the row of results, empty where there is none to write; ``lines`` of the table
    for the terminal; ``headline``: the result in words."""

    columns: dict[str, float]
    lines: list[str]
    headline: str


class Task:
    """Subclasses set ``name`` (a column of the table of results), ``truth`` (the fields that judge
    an output), ``drawn`` (what :meth:`figure` shows; None: nothing), ``batch`` (shapes to look at
    together, without gradients).

    Args:
        classes: in the order of the labels; in segmentation, the categories.
        ranges: (begin, end) of the parts of every category, see :mod:`utils.part_metrics`.
    """

    name: str
    truth: tuple[str, ...] = ()
    drawn: str | None = None
    batch = 64

    def __init__(self, network: nn.Module, classes: list[str], ranges: Ranges):
        self.network, self.classes, self.ranges = network, classes, ranges

    @property
    def fields(self) -> set[str]:
        """Of a batch, beside ``index`` and ``label``."""
        return {*self.network.fields, *self.truth}

    def compute(self, batch: Batch) -> Batch:
        """What :func:`utils.engine.predict` keeps of every shape: ``feature`` (B, D) and what the
        task is measured by."""
        raise NotImplementedError

    def measure(self, outputs: Arrays) -> dict[str, float]:
        """Metrics for the log, ``eval/...``, of the outputs over all shapes."""
        return {}

    def report(self, outputs: Arrays) -> Report:
        raise NotImplementedError

    def predictions(self, outputs: Arrays) -> Arrays:
        """What differences between networks can be tested on later: arrays (S,)."""
        raise NotImplementedError

    def figure(self, outputs: Arrays, few: Callable[[], Batch]) -> Figure:
        """Drawn from the outputs, or from a batch of few shapes."""
        raise NotImplementedError

    def draw(
        self, writer: Any, epoch: int, outputs: Arrays, batch: Batch, few: Callable[[], Batch]
    ) -> None:
        """Pictures for TensorBoard.

        Args:
            outputs: of all watched shapes. batch: of training. few: gives some watched shapes.
        """
        if "points" in batch:
            pictures.cloud(writer, epoch, batch["points"][0], batch.get("visibility"))
        if "views" in batch:
            pictures.view_grid(writer, epoch, batch["views"])
        pictures.embedding(writer, epoch, outputs["feature"], outputs["label"], self.classes)
        if self.drawn is not None:
            was_training = self.network.training
            self.network.eval()
            writer.add_figure(self.drawn, self.figure(outputs, few), epoch)
            self.network.train(was_training)


def lines_by_class(
    classes: list[str], labels: np.ndarray, values: np.ndarray, what: str
) -> list[str]:
    """A table of the mean of ``values`` (S,) in every class that ``labels`` (S,) has."""
    width = max(len(name) for name in classes)
    lines = [f"{'class':{width}}  shapes  {what}"]
    for label in np.unique(labels):
        mine = values[labels == label]
        lines.append(f"{classes[label]:{width}}  {len(mine):6d}  {mine.mean():.4f}")
    return lines


def drawable(images: Tensor) -> np.ndarray:
    """(B, 1 or 3, H, W) in 0..1 -> (B, H, W, 3) for drawing."""
    return images.float().clamp(0, 1).expand(-1, 3, -1, -1).movedim(1, -1).cpu().numpy()
