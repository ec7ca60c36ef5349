"""The baseline: the student's own task and nothing else."""

from __future__ import annotations

from torch import Tensor, nn

from models.losses import smoothed_cross_entropy
from models.methods.base import Method, MethodOutput
from models.outputs import StudentOutput
from utils.errors import ConfigError

# Which batch field holds the truth of a task.
TARGETS = {"classification": "label", "segmentation": "parts"}


class Plain(Method):
    """Smoothed cross-entropy on the labels, and the encoder's own regularisers.

    Batch: ``points`` (B, N, 3), ``label`` (B,) int64, and for part segmentation ``parts`` (B, N)
    int64, -1 where a point has no label; ``label`` is there the category, which the network is
    told.
    Terms: ``task``, and ``transform``, the feature-transform regulariser, which only PointNet has;
    for other encoders its weight has no effect.
    """

    terms = ("task", "transform")
    options = ("smoothing",)

    def __init__(self, network: nn.Module, weights: dict[str, float], smoothing: float = 0.0):
        super().__init__(network, weights)
        if not {"task", "distill"} & set(self.weights):
            raise ConfigError("nothing to learn from: loss.task and loss.distill are both 0")
        self.smoothing = smoothing
        self.target = TARGETS[network.task]
        self.term_fields = {**self.term_fields, "task": (self.target,)}

    @property
    def trains_all(self) -> bool:
        """Not the classifier without ``task``, nor a projection without ``distill``."""
        taught = self.network.projection is None or "distill" in self.weights
        return taught and "task" in self.weights

    def forward(self, batch: dict[str, Tensor]) -> MethodOutput:
        return self.output(self.network(batch["points"], batch.get("label")), batch)

    def output(self, output: StudentOutput, batch: dict[str, Tensor]) -> MethodOutput:
        """The terms that need no teacher."""
        losses = {}
        for name, value in output.extra_losses.items():
            if name in self.weights:
                losses[name] = value
        if "task" not in self.weights:
            return MethodOutput(losses)
        target = batch[self.target]
        losses["task"] = smoothed_cross_entropy(output.logits, target, self.smoothing)
        return MethodOutput(losses, output.logits, target)
