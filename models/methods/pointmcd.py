"""PointMCD: cross-modal distillation through visibility-aware feature projection.

Zhang, Hou, Qian, "PointMCD: Boosting Deep Point Cloud Encoders via Multi-view Cross-modal
Distillation for 3D Shape Recognition", IEEE TMM 2023.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.losses import Distance, alignment_loss
from models.methods.base import MethodOutput
from models.methods.plain import Plain
from models.projection import ViewProjection


class PointMCD(Plain):
    """The baseline's terms and ``distill``, the alignment with the teacher's codes.

    Batch, beside the baseline's: ``visibility`` (B, N, V) bool and ``view_codes`` (B, V, D) of the
    teacher. The points may be augmented; the teacher's codes belong to the unaugmented shape, as in
    the published code.

    With ``distill`` at 0 there is no projection head and the method is the baseline; without
    ``task`` it learns from the teacher alone and reads no labels of shapes.

    Args:
        pooling: ``visible`` is the paper's projection. ``global`` is its control: the maximum over
            all points is aligned with the teacher's code of the whole shape, and no visibility is
            read. The batch field is then ``codes`` (B, D).
        distance: see :func:`models.losses.alignment_loss`; the paper's is ``l1``.
    """

    terms = (*Plain.terms, "distill")
    options = (*Plain.options, "pooling", "distance")

    def __init__(
        self,
        network: nn.Module,
        weights: dict[str, float],
        smoothing: float = 0.0,
        pooling: Literal["visible", "global"] = "visible",
        distance: Distance = "l1",
    ):
        super().__init__(network, weights, smoothing)
        self.pooling, self.distance = pooling, distance
        fields = ("visibility", "view_codes") if pooling == "visible" else ("codes",)
        self.term_fields = {**self.term_fields, "distill": fields}
        if "distill" in self.weights and network.projection is None:
            network.projection = ViewProjection(network.feature_channels)

    def forward(self, batch: dict[str, Tensor]) -> MethodOutput:
        if "distill" not in self.weights:
            return super().forward(batch)
        if self.pooling == "global":
            visibility = batch["points"].new_ones((*batch["points"].shape[:2], 1), dtype=torch.bool)
            taught = batch["codes"].unsqueeze(1)  # (B, 1, D)
        else:
            visibility, taught = batch["visibility"], batch["view_codes"]
        student = self.network(batch["points"], batch.get("label"), visibility)
        found = self.output(student, batch)
        found.losses["distill"] = alignment_loss(
            student.view_codes, taught, student.seen, self.distance
        )
        return found
