"""Distillation of logits: the student's classes are softened like the teacher's and pulled to them.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.outputs import StudentOutput
from models.terms.base import Batch, Shape, Term
from utils.settings import Factor, TermSettings


class LogitsSettings(TermSettings):
    temperature: Factor = 4.0  # T; what both logits are divided by before the softmax


class Logits(Term):
    """T^2 KL(softmax(t / T) || softmax(s / T)) of the student's logits s and the teacher's t, mean
    over the batch. The factor keeps the gradient's size when T changes.

    Batch: ``logits`` (B, K) of the teacher, over the classes of the student.
    """

    name = "logits"
    Settings = LogitsSettings
    roles = {"student": ("classification",)}
    learns_from = "teacher"
    names_classes = True
    trains_all = True

    @classmethod
    def reads(cls, settings: LogitsSettings, network: nn.Module) -> dict[str, Shape | None]:
        return {"logits": (network.num_classes,)}

    def forward(self, batch: Batch, output: StudentOutput) -> Tensor:
        return softened_divergence(output.logits, batch["logits"], self.settings.temperature)


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """See :class:`Logits`.

    Args:
        student, teacher: logits (B, K) of any floating type; no gradient flows to the teacher's.

    Returns:
        Scalar in float32, 0 where both say the same up to a constant.
    """
    own = F.log_softmax(student.float() / temperature, dim=1)
    taught = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    divergence = F.kl_div(own, taught, reduction="batchmean", log_target=True)
    return temperature**2 * divergence
