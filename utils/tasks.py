"""What a network learns to do, in one place: what is read and computed of a batch, and how that is
measured, reported and drawn, while it trains and when it is tested.

A task works on any network with ``fields`` (of a batch, its input), ``task`` (the name here) and
``forward_batch(batch)``: students and teachers differ where their outputs do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from utils import pictures
from utils.errors import ConfigError, DataError
from utils.metrics import confusion_matrix, score
from utils.part_metrics import (
    PartScore,
    Ranges,
    part_counts,
    restrict_to_category,
    score_parts,
    shape_ious,
)

Batch = dict[str, Tensor]
Arrays = dict[str, np.ndarray]
SUFFIXES = {"classification": "", "segmentation": "_partseg", "autoencoder": "_autoencoder"}
METRICS = ("overall", "instance_miou", "class_miou", "instance_miou_lenient", "class_miou_lenient")


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


class Features(Task):
    """Learning without labels: nothing is measured but what a probe makes of the features."""

    name = "features"

    def compute(self, batch: Batch) -> Batch:
        return {"feature": self.network.forward_batch(batch).global_feature}


class Classification(Task):
    """Shapes into classes, from clouds or from views."""

    name = "classification"
    drawn = "confusion"

    @property
    def batch(self) -> int:
        return 16 if "views" in self.network.fields else 64

    def compute(self, batch: Batch) -> Batch:
        output = self.network.forward_batch(batch)
        return {"prediction": output.logits.argmax(dim=1), "feature": output.global_feature}

    def confusion(self, outputs: Arrays) -> np.ndarray:
        return confusion_matrix(outputs["label"], outputs["prediction"], len(self.classes))

    def measure(self, outputs: Arrays) -> dict[str, float]:
        result = score(self.confusion(outputs))
        return {"eval/overall": result.overall, "eval/mean_class": result.mean_class}

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

    def predictions(self, outputs: Arrays) -> Arrays:
        return {"prediction": outputs["prediction"]}

    def figure(self, outputs: Arrays, few: Callable[[], Batch]) -> Figure:
        return pictures.confusion_figure(self.confusion(outputs), self.classes)


class Parts(Task):
    """What points and pixels divided into parts share; the category is known."""

    name = "segmentation"
    unit: str  # what is divided
    background = 0  # one more part, of pixels that show no shape

    def predict(self, output: Any, label: Tensor) -> Tensor:
        """Global part numbers (B, ...) of an output."""
        raise NotImplementedError

    def compute(self, batch: Batch) -> Batch:
        output = self.network.forward_batch(batch)
        found = self.predict(output, batch["label"])
        parts = self.ranges[-1][1] + self.background
        counts = part_counts(found, batch[self.truth[0]], parts)
        return {"counts": counts, "feature": output.global_feature}

    def score(self, outputs: Arrays) -> PartScore:
        return score_parts(outputs["counts"], outputs["label"], self.ranges)

    def measure(self, outputs: Arrays) -> dict[str, float]:
        result = self.score(outputs)
        return {f"eval/{name}": getattr(result, name) for name in METRICS[:3]}

    def report(self, outputs: Arrays) -> Report:
        return part_report(self.score(outputs), self.classes, self.unit)

    def predictions(self, outputs: Arrays) -> Arrays:
        return shape_ious(outputs["counts"], outputs["label"], self.ranges)


class PointParts(Parts):
    """Points into parts."""

    truth = ("parts",)
    drawn = "parts"
    unit = "points"

    def predict(self, output: Any, label: Tensor) -> Tensor:
        return restrict_to_category(output.logits, label, self.ranges)  # (B, N)

    @torch.no_grad()
    def figure(self, outputs: Arrays, few: Callable[[], Batch]) -> Figure:
        batch = few()
        predicted = self.predict(self.network.forward_batch(batch), batch["label"])
        arrays = (batch["points"], batch["parts"], predicted, batch["label"])
        points, true, found, labels = (array.cpu().numpy() for array in arrays)
        return pictures.parts_figure(points, true, found, labels, self.classes, self.ranges)


class PixelParts(Parts):
    """Pixels of the views into parts and background. The IoU is that of all views of a shape
    together; the background is no part."""

    truth = ("part_images",)
    drawn = "pixels"
    unit = "pixels"
    background = 1
    batch = 2

    def predict(self, output: Any, label: Tensor) -> Tensor:
        logits = output.logits.movedim(2, -1)  # (B, V, H, W, K + 1)
        return restrict_to_category(logits, label, self.ranges, background=True)

    @torch.no_grad()
    def figure(self, outputs: Arrays, few: Callable[[], Batch]) -> Figure:
        batch = few()
        found = self.predict(self.network.forward_batch(batch), batch["label"])[:, 0]
        true = batch["part_images"][:, 0]
        begins = torch.tensor([begin for begin, _ in self.ranges], device=found.device)
        offset = begins[batch["label"]][:, None, None]
        rows = [_images(batch["views"][:, 0].float() / 255)]
        for image in (true, found):
            local = torch.where(image < 0, -1, image - offset)
            local[image == self.ranges[-1][1]] = -2
            rows.append(pictures.colour_parts(local.cpu().numpy()))
        names = [self.classes[label] for label in batch["label"].tolist()]
        return pictures.image_figure(rows, ("view", "true parts", "predicted"), names)


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
    def figure(self, outputs: Arrays, few: Callable[[], Batch]) -> Figure:
        batch = few()
        images = self.network.forward_batch(batch).images
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


def task_of(network: nn.Module, split: Any, labelled: bool = True) -> Task:
    """The task of a network on a prepared split, by what it learnt.

    Args:
        labelled: whether it learns from labels; otherwise its classes mean nothing.
    """
    if network.task == "autoencoder":
        kind = Reconstruction
    elif not labelled:
        kind = Features
    elif network.task == "classification":
        kind = Classification
    else:
        kind = PixelParts if "views" in network.fields else PointParts
    return kind(network, split.class_names, split.part_ranges)


def output_sizes(task: str, split: Any) -> dict[str, int]:
    """Arguments of a network's builder: ``num_classes``, in segmentation of all parts, and
    ``num_categories``, of which only segmentation is told.

    Raises:
        DataError: parts are to be learnt and the set has none.
    """
    if task != "segmentation":
        classes = 0 if task == "autoencoder" else len(split.class_names)
        return {"num_classes": classes, "num_categories": 0}
    if split.num_parts == 0:
        raise DataError(f"{split.path} has no part labels, which task=segmentation learns")
    return {"num_classes": split.num_parts, "num_categories": len(split.class_names)}


def tested_task(content: dict[str, Any], network: nn.Module, split: Any, path: str) -> Task:
    """The task of a checkpoint's network on a split to test it on.

    Raises:
        ConfigError: a network without labels, whose classes mean nothing.
        DataError: the split has other parts or classes than the network.
    """
    if network.task != "autoencoder":
        require_labels(content, path)
        if split.class_names != content["classes"]:
            raise DataError(
                f"{path} knows {len(content['classes'])} classes ({content['classes'][0]}, ...), "
                f"{split.name} has {len(split.class_names)} ({split.class_names[0]}, ...): they "
                "must be the same classes in the same order"
            )
    parts = content["build"]["num_classes"]
    if network.task == "segmentation" and split.num_parts != parts:
        raise DataError(f"{path} knows {parts} parts, {split.name} has {split.num_parts}")
    return task_of(network, split)


def require_labels(content: dict[str, Any], path: str) -> None:
    """Refuse a network that never saw a label.

    Raises:
        ConfigError: no term that it was trained with reads labels.
    """
    if not content["training"]["labelled"]:
        raise ConfigError(
            f"{path} was trained without labels, its classes mean nothing: probe its features with "
            "test.py --probe svm"
        )
