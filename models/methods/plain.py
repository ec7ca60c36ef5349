"""The baseline: the student's own task and nothing else."""

from __future__ import annotations

from torch import Tensor, nn

from models.losses import smoothed_cross_entropy
from models.methods.base import Method, MethodOutput
from models.outputs import StudentOutput


class Plain(Method):
    """Smoothed cross-entropy on the labels, and the encoder's own regularisers.

    Batch: ``points`` (B, N, 3), ``label`` (B,) int64.
    Terms: ``task``, and ``transform``, the feature-transform regulariser, which only PointNet has;
    for other encoders its weight has no effect.
    """

    terms = ("task", "transform")
    term_fields = {"task": ("label",)}

    def __init__(self, network: nn.Module, weights: dict[str, float], smoothing: float = 0.0):
        super().__init__(network, weights)
        self.smoothing = smoothing

    def forward(self, batch: dict[str, Tensor]) -> MethodOutput:
        output = self.network(batch["points"])
        return MethodOutput(output.logits, self.own_losses(output, batch))

    def own_losses(self, output: StudentOutput, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms that need no teacher."""
        losses = {}
        if "task" in self.weights:
            losses["task"] = smoothed_cross_entropy(output.logits, batch["label"], self.smoothing)
        for name, value in output.extra_losses.items():
            if name in self.weights:
                losses[name] = value
        return losses
