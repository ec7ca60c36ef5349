"""PointMCD: cross-modal distillation through visibility-aware feature projection.

Zhang, Hou, Qian, "PointMCD: Boosting Deep Point Cloud Encoders via Multi-view Cross-modal
Distillation for 3D Shape Recognition", IEEE TMM 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from models.losses import Distance, alignment_loss
from models.outputs import StudentOutput
from models.projection import ViewProjection, pool_visible
from models.terms.base import Batch, Shape, Term
from utils.fields import Field
from utils.settings import TermSettings


class AlignmentSettings(TermSettings):
    """The parts of the method that an ablation exchanges."""

    # visible: the paper's projection. global, its control: the maximum over all points is aligned
    # with the teacher's code of the whole shape, and no visibility is read
    pooling: Literal["visible", "global"] = "visible"
    distance: Distance = "l1"  # the paper's; see models.losses.alignment_loss
    # what the projection ends in; auto: a ReLU, as in the paper, for codes that are not negative,
    # nothing for those of other networks
    activation: Literal["auto", "relu", "none"] = "auto"


class Alignment(Term):
    """The student's view codes against the teacher's.

    Batch: ``visibility`` (B, N, V) bool and ``view_codes`` (B, V, D) of the teacher; for ``global``
    pooling ``codes`` (B, D). The points may be augmented; the teacher's codes belong to the
    unaugmented shape, as in the published code. The projection takes the width D of the codes.
    """

    name = "alignment"
    Settings = AlignmentSettings
    learns_from = "teacher"

    def __init__(
        self, settings: AlignmentSettings, network: nn.Module, fields: Mapping[str, Field]
    ):
        super().__init__(settings, network, fields)
        self.taught = "codes" if settings.pooling == "global" else "view_codes"
        codes = self.fields[self.taught]
        rectified = settings.activation == "relu"
        if settings.activation == "auto":
            rectified = not codes.signed
        self.head = ViewProjection(network.feature_channels, codes.shape[-1], rectified)

    @classmethod
    def reads(cls, settings: AlignmentSettings, network: nn.Module) -> dict[str, Shape | None]:
        names = ("codes",) if settings.pooling == "global" else ("visibility", "view_codes")
        return dict.fromkeys(names)

    @classmethod
    def changes(cls, settings: AlignmentSettings) -> list[str]:
        usual = cls.Settings()
        words = {
            "pooling": f"{settings.pooling} pooling",
            "distance": settings.distance,
            "activation": f"activation {settings.activation}",
        }
        return [w for name, w in words.items() if getattr(settings, name) != getattr(usual, name)]

    def view_codes(self, output: StudentOutput, visibility: Tensor) -> tuple[Tensor, Tensor]:
        """The student's own codes (B, V, D) of what each view sees, and (B, V) bool: False for
        views that see none of the points with embeddings.

        Args:
            visibility: (B, N, V) bool, of the input points.
        """
        pooled, seen = pool_visible(output.point_features, output.point_index, visibility)
        return self.head(pooled), seen

    def forward(self, batch: Batch, output: StudentOutput) -> Tensor:
        if self.settings.pooling == "global":
            visibility = batch["points"].new_ones((*batch["points"].shape[:2], 1), dtype=torch.bool)
            taught = batch["codes"].unsqueeze(1)  # (B, 1, D)
        else:
            visibility, taught = batch["visibility"], batch["view_codes"]
        codes, seen = self.view_codes(output, visibility)
        return alignment_loss(codes, taught, seen, self.settings.distance)
