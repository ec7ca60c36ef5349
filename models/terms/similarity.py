"""Similarity-preserving distillation: which shapes of a batch are alike, to student and teacher.

Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.outputs import StudentOutput
from models.terms.base import Batch, Shape, Term
from utils.settings import TermSettings


class Similarity(Term):
    """|G_s - G_t|_F^2 / B^2, where G holds the products of every two codes of a batch, each of its
    rows scaled to length 1.

    paper: the activations of a layer of both networks.
    here: the student's global feature and the code of the shape, of any widths and signs; there is
    no head.

    Batch: ``codes`` (B, D) of the teacher. In several processes each compares the shapes of its own
    share of the batch, and the loss is the mean over the processes: the pairs are fewer than in one
    process, and the rows shorter.
    """

    name = "similarity"
    learns_from = "teacher"

    @classmethod
    def reads(cls, settings: TermSettings, network: nn.Module) -> dict[str, Shape | None]:
        return {"codes": None}

    def forward(self, batch: Batch, output: StudentOutput) -> Tensor:
        return similarity_loss(output.global_feature, batch["codes"])


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """See :class:`Similarity`.

    Args:
        student: (B, D) codes of a batch. teacher: (B, E); no gradient flows to them.

    Returns:
        Scalar in float32.
    """
    with torch.autocast(student.device.type, enabled=False):  # differences are small beside G
        own, taught = _similarities(student.float()), _similarities(teacher.detach().float())
    return (own - taught).square().mean()


def _similarities(codes: Tensor) -> Tensor:
    return F.normalize(codes @ codes.T, dim=1)  # (B, B)
