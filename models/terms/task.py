"""The network's own task, learnt from labels: smoothed cross-entropy."""

from __future__ import annotations

from torch import Tensor, nn

from models.losses import smoothed_cross_entropy
from models.outputs import StudentOutput, TeacherOutput
from models.terms.base import Batch, Shape, Term
from utils.settings import Fraction, TermSettings

TARGETS = {"classification": "label", "segmentation": "parts"}  # field of a batch with the truth


class TaskSettings(TermSettings):
    smoothing: Fraction = 0.2


class Task(Term):
    """Cross-entropy of ``logits`` against the class of the shape, or in part segmentation against
    ``parts`` (B, N) int64, -1 where a point has no label; see
    :func:`models.losses.smoothed_cross_entropy`. For the multi-view teacher it is the loss of the
    whole shape (Zhang et al., TMM 2023).
    """

    name = "task"
    Settings = TaskSettings
    roles = frozenset({"student", "teacher"})
    learns_from = "labels"
    trains_all = True

    def __init__(self, settings: TaskSettings, network: nn.Module, fields):
        super().__init__(settings, network, fields)
        self.target = TARGETS[network.task]

    @classmethod
    def reads(cls, settings: TaskSettings, network: nn.Module) -> dict[str, Shape | None]:
        return {TARGETS[network.task]: None}

    def forward(self, batch: Batch, output: StudentOutput | TeacherOutput) -> Tensor:
        return smoothed_cross_entropy(output.logits, batch[self.target], self.settings.smoothing)

    def judge(self, batch: Batch, output: StudentOutput | TeacherOutput) -> tuple[Tensor, Tensor]:
        return output.logits, batch[self.target]
