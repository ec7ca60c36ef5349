"""Part segmentation: of the points of a cloud, or of the pixels of its views."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from utils import pictures
from utils.part_metrics import (
    PartScore,
    part_counts,
    restrict_to_category,
    score_parts,
    shape_ious,
)
from utils.tasks.base import Arrays, Batch, Report, Task, drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("overall", "instance_miou", "class_miou", "instance_miou_lenient", "class_miou_lenient")


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
        rows = [drawable(batch["views"][:, 0].float() / 255)]
        for image in (true, found):
            local = torch.where(image < 0, -1, image - offset)
            local[image == self.ranges[-1][1]] = -2
            rows.append(pictures.colour_parts(local.cpu().numpy()))
        names = [self.classes[label] for label in batch["label"].tolist()]
        return pictures.image_figure(rows, ("view", "true parts", "predicted"), names)


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
