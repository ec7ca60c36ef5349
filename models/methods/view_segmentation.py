"""Training of the segmentation teacher: the part that every pixel of a view shows."""

from __future__ import annotations

from torch import Tensor

from models.losses import smoothed_cross_entropy
from models.methods.base import Method, MethodOutput


class ViewSegmentation(Method):
    """The loss of PointMCD's segmentation teacher (Zhang et al., TMM 2023).

    Batch: ``views`` (B, V, 1 or 3, H, W), ``part_images`` (B, V, H, W) int64, -1 where a pixel has
    no label, and ``label`` (B,) int64, the category, which the network is told.
    Terms: ``pixel``, cross-entropy of every labelled pixel over the parts of all categories and the
    background, without smoothing.
    """

    inputs = ("views", "label")
    terms = ("pixel",)
    term_fields = {"pixel": ("part_images",)}

    def forward(self, batch: dict[str, Tensor]) -> MethodOutput:
        output = self.network(batch["views"], category=batch["label"])
        logits, target = output.logits.movedim(2, -1), batch["part_images"]  # (B, V, H, W, K + 1)
        return MethodOutput({"pixel": smoothed_cross_entropy(logits, target, 0.0)}, logits, target)
