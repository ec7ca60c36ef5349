"""Training of the multi-view teacher: the whole shape and each of its views name the class."""

from __future__ import annotations

from torch import Tensor, nn

from models.losses import smoothed_cross_entropy
from models.methods.base import Method, MethodOutput


class ViewClassification(Method):
    """The two losses of PointMCD's classification teacher (Zhang et al., TMM 2023).

    Batch: ``views`` (B, V, 1 or 3, H, W), ``label`` (B,) int64.
    Terms: ``shape``, smoothed cross-entropy of the shape's logits; ``view``, the same for every
    view, averaged over the B * V views.
    """

    inputs = ("views",)
    terms = ("shape", "view")
    term_fields = {"shape": ("label",), "view": ("label",)}
    options = ("smoothing",)

    def __init__(self, network: nn.Module, weights: dict[str, float], smoothing: float = 0.0):
        super().__init__(network, weights)
        self.smoothing = smoothing

    @property
    def trains_all(self) -> bool:
        """Not the head of the shape's code without ``shape``."""
        return "shape" in self.weights

    def forward(self, batch: dict[str, Tensor]) -> MethodOutput:
        output = self.network(batch["views"])
        losses = {}
        if "shape" in self.weights:
            losses["shape"] = smoothed_cross_entropy(output.logits, batch["label"], self.smoothing)
        if "view" in self.weights:
            rows = output.view_logits.flatten(0, 1)  # (B * V, K)
            labels = batch["label"].repeat_interleave(output.view_logits.shape[1])
            losses["view"] = smoothed_cross_entropy(rows, labels, self.smoothing)
        return MethodOutput(losses, output.logits, batch["label"])
