"""Tasks of whole shapes: their class, or features for a probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from utils import pictures
from utils.metrics import confusion_matrix, score
from utils.tasks.base import Arrays, Batch, Report, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Features(Task):
    """Learning without labels: nothing is measured but what a probe makes of the features."""

    name = "features"

    def compute(self, batch: Batch) -> Batch:
        return {"feature": self.network.forward_batch(batch).global_feature}


class Classification(Task):
    """Shapes into classes, from clouds or from views."""

    name = "classification"
    drawn = "confusion"
    repeats = 1  # answers for every shape

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
            shapes, recall = confusion[place].sum() // self.repeats, result.per_class[place]
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
