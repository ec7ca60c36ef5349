"""How a network is tested, by its task: what is kept of a batch, and what is made of it.

An evaluation has ``task`` (a column of the table of results), ``fields`` (what it reads of a batch
beside the network's input), ``compute(batch)`` for :func:`utils.engine.predict`,
``report(outputs)`` of what that returns, and ``figure(outputs, batch)``, drawn from the outputs or
from a small batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from utils import pictures
from utils.errors import ConfigError, DataError
from utils.metrics import confusion_matrix, score
from utils.part_metrics import PartScore, Ranges, part_counts, restrict_to_category, score_parts

Batch = dict[str, Tensor]
Arrays = dict[str, np.ndarray]
METRICS = ("overall", "instance_miou", "class_miou", "instance_miou_lenient", "class_miou_lenient")


@dataclass(frozen=True)
class Report:
    """``columns`` of the row of results, empty where there is none to write; ``lines`` of the table
    for the terminal; ``headline``: the result in words."""

    columns: dict[str, float]
    lines: list[str]
    headline: str


class Classification:
    """Shapes into classes, from clouds or from views.

    Args:
        field: of the batch, what the network reads.
    """

    task = "classification"
    fields: tuple[str, ...] = ()

    def __init__(self, network: nn.Module, classes: list[str], field: str):
        self.network, self.classes, self.field = network, classes, field

    def compute(self, batch: Batch) -> Batch:
        return {"prediction": self.network(batch[self.field]).logits.argmax(dim=1)}

    def confusion(self, outputs: Arrays) -> np.ndarray:
        return confusion_matrix(outputs["label"], outputs["prediction"], len(self.classes))

    def report(self, outputs: Arrays) -> Report:
        confusion = self.confusion(outputs)
        result = score(confusion)
        width = max(len(name) for name in self.classes)
        lines = [f"{'class':{width}}  shapes  accuracy  most often taken for"]
        for place, name in enumerate(self.classes):
            others = confusion[place].copy()
            others[place] = 0
            taken = self.classes[others.argmax()] if others.any() else "-"
            shapes, recall = confusion[place].sum(), result.per_class[place]
            lines.append(f"{name:{width}}  {shapes:6d}  {recall:8.1f}  {taken}")
        return Report(
            {"overall": result.overall, "mean_class": result.mean_class},
            lines,
            f"overall accuracy {result.overall:.1f} %, "
            f"mean class accuracy {result.mean_class:.1f} %",
        )

    def figure(self, outputs: Arrays, batch: Batch) -> Figure:
        return pictures.confusion_figure(self.confusion(outputs), self.classes)


class PointParts:
    """Points into parts, the category being known.

    Args:
        ranges: (begin, end) of the parts of every category, see :mod:`utils.part_metrics`.
    """

    task = "segmentation"
    fields: tuple[str, ...] = ("parts",)

    def __init__(self, network: nn.Module, classes: list[str], ranges: Ranges):
        self.network, self.classes, self.ranges = network, classes, ranges

    def predict(self, batch: Batch) -> Tensor:
        """(B, N) global part numbers."""
        logits = self.network(batch["points"], batch["label"]).logits
        return restrict_to_category(logits, batch["label"], self.ranges)

    def compute(self, batch: Batch) -> Batch:
        parts = self.ranges[-1][1]
        return {"counts": part_counts(self.predict(batch), batch["parts"], parts)}

    def report(self, outputs: Arrays) -> Report:
        return part_report(
            score_parts(outputs["counts"], outputs["label"], self.ranges), self.classes, "points"
        )

    @torch.no_grad()
    def figure(self, outputs: Arrays, batch: Batch) -> Figure:
        predicted = self.predict(batch)
        arrays = (batch["points"], batch["parts"], predicted, batch["label"])
        points, true, found, labels = (array.cpu().numpy() for array in arrays)
        return pictures.parts_figure(points, true, found, labels, self.classes, self.ranges)


class PixelParts:
    """Pixels of the views into parts and background, the category being known.

    The IoU is that of all views of a shape together; the background is no part.
    """

    task = "segmentation"
    fields: tuple[str, ...] = ("part_images",)

    def __init__(self, network: nn.Module, classes: list[str], ranges: Ranges):
        self.network, self.classes, self.ranges = network, classes, ranges

    def predict(self, batch: Batch) -> Tensor:
        """(B, V, H, W) global part numbers, the number of parts for background."""
        logits = self.network(batch["views"], category=batch["label"]).logits  # (B, V, K+1, H, W)
        logits = logits.movedim(2, -1)
        return restrict_to_category(logits, batch["label"], self.ranges, background=True)

    def compute(self, batch: Batch) -> Batch:
        parts = self.ranges[-1][1] + 1
        return {"counts": part_counts(self.predict(batch), batch["part_images"], parts)}

    def report(self, outputs: Arrays) -> Report:
        return part_report(
            score_parts(outputs["counts"], outputs["label"], self.ranges), self.classes, "pixels"
        )

    @torch.no_grad()
    def figure(self, outputs: Arrays, batch: Batch) -> Figure:
        found, true = self.predict(batch)[:, 0], batch["part_images"][:, 0]
        begins = torch.tensor([begin for begin, _ in self.ranges], device=found.device)
        offset = begins[batch["label"]][:, None, None]
        rows = [_images(batch["views"][:, 0].float() / 255)]
        for image in (true, found):
            local = torch.where(image < 0, -1, image - offset)
            local[image == self.ranges[-1][1]] = -2
            rows.append(pictures.colour_parts(local.cpu().numpy()))
        names = [self.classes[label] for label in batch["label"].tolist()]
        return pictures.image_figure(rows, ("view", "true parts", "predicted"), names)


class Reconstruction:
    """Views into themselves: an autoencoder, which has no accuracy and no row of results."""

    task = "autoencoder"
    fields: tuple[str, ...] = ()

    def __init__(self, network: nn.Module, classes: list[str]):
        self.network, self.classes = network, classes

    def compute(self, batch: Batch) -> Batch:
        images = self.network(batch["views"]).images
        error = (images - _targets(batch["views"], images)).abs()
        return {"error": error.flatten(1).mean(dim=1)}

    def report(self, outputs: Arrays) -> Report:
        errors, labels = outputs["error"], outputs["label"]
        width = max(len(name) for name in self.classes)
        lines = [f"{'class':{width}}  shapes  error"]
        for label in np.unique(labels):
            of_class = errors[labels == label]
            lines.append(
                f"{self.classes[label]:{width}}  {len(of_class):6d}  {of_class.mean():.4f}"
            )
        mean = errors.mean()
        return Report({}, lines, f"mean absolute error {mean:.4f} of a pixel in 0..1")

    @torch.no_grad()
    def figure(self, outputs: Arrays, batch: Batch) -> Figure:
        images = self.network(batch["views"]).images
        rows = [_images(_targets(batch["views"], images)[:, 0]), _images(images[:, 0])]
        names = [self.classes[label] for label in batch["label"].tolist()]
        return pictures.image_figure(rows, ("view", "reconstruction"), names)


def _targets(views: Tensor, images: Tensor) -> Tensor:
    """The views (B, V, 1 or 3, H, W) uint8 in 0..1, with the three channels of ``images``."""
    return (views.float() / 255).expand_as(images)


def _images(images: Tensor) -> np.ndarray:
    """(B, 1 or 3, H, W) in 0..1 -> (B, H, W, 3) for drawing."""
    return images.float().clamp(0, 1).expand(-1, 3, -1, -1).movedim(1, -1).cpu().numpy()


def part_report(result: PartScore, classes: list[str], unit: str) -> Report:
    """Table by category and both rules; ``unit`` names what was divided."""
    width = max(len("category"), *(len(name) for name in classes))
    lines = [f"{'category':{width}}  shapes  mIoU  lenient"]
    for place, name in enumerate(classes):
        standard, lenient = result.per_category[place], result.per_category_lenient[place]
        lines.append(f"{name:{width}}  {result.shapes[place]:6d}  {standard:4.1f}  {lenient:7.1f}")
    return Report(
        {name: getattr(result, name) for name in METRICS},
        lines,
        f"{result.overall:.1f} % of the {unit} right, instance mIoU {result.instance_miou:.1f}, "
        f"class mIoU {result.class_miou:.1f} (lenient rule {result.instance_miou_lenient:.1f}, "
        f"{result.class_miou_lenient:.1f})",
    )


def evaluation_of(
    content: dict[str, Any], network: nn.Module, split: Any, path: str
) -> Classification | PointParts | PixelParts | Reconstruction:
    """How to test the network of a checkpoint on a prepared split, by its role and task.

    Raises:
        ConfigError: a student without labels, whose classes mean nothing.
        DataError: the split has other parts than the network.
    """
    build, student = content["build"], content["role"] == "student"
    task = build.get("task", "classification")
    if task == "autoencoder":
        return Reconstruction(network, split.class_names)
    if student:
        require_labels(content, path)
    if task == "classification":
        return Classification(network, split.class_names, "points" if student else "views")
    if split.num_parts != build["num_classes"]:
        raise DataError(
            f"{path} knows {build['num_classes']} parts, {split.name} has {split.num_parts}"
        )
    return (PointParts if student else PixelParts)(network, split.class_names, split.part_ranges)


def require_labels(content: dict[str, Any], path: str) -> None:
    """Refuse a student that never saw a label.

    Raises:
        ConfigError: what it was trained with has no task.
    """
    if not content["config"]["loss"].get("task"):
        raise ConfigError(
            f"{path} was trained without labels (loss.task=0), its classes mean nothing: probe its "
            "features with test.py --probe svm"
        )
