"""The network's own task, learnt from labels: smoothed cross-entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.outputs import StudentOutput, TeacherOutput
from models.terms.base import Batch, Shape, Term
from utils.distributed import share_of_count
from utils.settings import Fraction, TermSettings

IGNORED = -1  # as a label
TARGETS = {"classification": "label", "segmentation": "parts"}  # field of a batch with the truth


class TaskSettings(TermSettings):
    smoothing: Fraction = 0.2


class Task(Term):
    """Cross-entropy of ``logits`` against the class of the shape, or in part segmentation against
    ``parts`` (B, N) int64, -1 where a point has no label; see
    :func:`smoothed_cross_entropy`. For the multi-view teacher it is the loss of the
    whole shape (Zhang et al., TMM 2023).
    """

    name = "task"
    Settings = TaskSettings
    roles = {**Term.roles, "teacher": ("classification",)}
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


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Label-smoothed cross-entropy as DGCNN and PointMCD define it.

    The target is ``1 - smoothing`` on the true class and ``smoothing / (K - 1)`` on each of the
    others. PyTorch's own smoothing spreads over all K classes instead, so its parameter has to be
    ``smoothing * K / (K - 1)`` for the same targets.

    Args:
        logits: (..., K); labels: (...) int64, ``IGNORED`` where there is none; smoothing in [0, 1).

    Returns:
        Scalar mean over the rows with a label, computed in float32; zero, with a gradient of zero,
        where no row has one. In several processes it is their mean that is the mean over the rows
        of all, however many labels each of them has.
    """
    classes = logits.shape[-1]
    equivalent = smoothing * classes / (classes - 1) if classes > 1 else 0.0
    rows, labels = logits.float().reshape(-1, classes), labels.reshape(-1)
    total = F.cross_entropy(
        rows, labels, ignore_index=IGNORED, label_smoothing=equivalent, reduction="sum"
    )
    return total / share_of_count((labels != IGNORED).sum())
