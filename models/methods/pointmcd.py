"""PointMCD: cross-modal distillation through visibility-aware feature projection.

Zhang, Hou, Qian, "PointMCD: Boosting Deep Point Cloud Encoders via Multi-view Cross-modal
Distillation for 3D Shape Recognition", IEEE TMM 2023.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.methods.base import MethodOutput
from models.methods.plain import Plain
from models.pointops import gather_rows
from models.projection import ViewProjection, alignment_loss, visible_max_pool


class PointMCD(Plain):
    """The baseline's terms and ``distill``, the alignment with the teacher's view codes.

    Batch, beside the baseline's: ``visibility`` (B, N, V) bool and ``view_codes`` (B, V, D) of the
    teacher. The points may be augmented; the teacher's codes belong to the unaugmented shape, as in
    the published code.

    With ``distill`` at 0 there is no projection head and the method is the baseline.
    """

    terms = (*Plain.terms, "distill")
    term_fields = {**Plain.term_fields, "distill": ("visibility", "view_codes")}

    def __init__(self, network: nn.Module, weights: dict[str, float], smoothing: float = 0.0):
        super().__init__(network, weights, smoothing)
        if "distill" in self.weights:
            self.projection = ViewProjection(network.encoder.feature_channels)

    def forward(self, batch: dict[str, Tensor]) -> MethodOutput:
        output = self.network(batch["points"])
        losses = self.own_losses(output, batch)
        if "distill" in self.weights:
            # An encoder that down-samples carries embeddings for some points only: their rows.
            seen = gather_rows(batch["visibility"], output.point_index)  # (B, M, V)
            pooled = visible_max_pool(output.point_features, seen)  # (B, V, C)
            codes = self.projection(pooled)
            losses["distill"] = alignment_loss(codes, batch["view_codes"], seen.any(dim=1))
        return MethodOutput(output.logits, losses)
