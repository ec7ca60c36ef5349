"""PointMCD: cross-modal distillation through visibility-aware feature projection (VAFP).

Zhang, Hou, Qian, "PointMCD: Boosting Deep Point Cloud Encoders via Multi-view Cross-modal
Distillation for 3D Shape Recognition", IEEE TMM 2023.

A point cloud and an image of the same shape meet in what the image can see. For every view v the
embeddings e_n of the points that v sees are max-pooled channel by channel,

    f_v = max { e_n : n visible in v },

one head shared by all views maps f_v to the code size of the 2D teacher, and the result s_v is
pulled to the teacher's code t_v of that same view:  L_vafp = mean |s_v - t_v|.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import ops
from models.layers.pointops import gather_rows
from models.outputs import StudentOutput
from models.terms.base import Batch, Shape, Term
from utils.distributed import share_of_count
from utils.fields import Field
from utils.settings import TermSettings

MOST_VIEWS = 32
Distance = Literal["l1", "l2", "cosine"]


class AlignmentSettings(TermSettings):
    """The parts of the method that an ablation exchanges."""

    # visible: the paper's projection. global, its control: the maximum over all points is aligned
    # with the teacher's code of the whole shape, and no visibility is read
    pooling: Literal["visible", "global"] = "visible"
    distance: Distance = "l1"  # the paper's; see alignment_loss
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


def visible_max_pool(point_features: Tensor, visibility: Tensor) -> Tensor:
    """Channel-wise maximum over the points that each view sees.

    paper: multiply the embeddings by the 0/1 visibility and take the maximum over all points.
    here: the maximum over the visible points only, because the product is right only where no
    embedding is negative; for embeddings that end in a ReLU both give the same values.

    The published form repeats the embeddings for every view, (B, V, M, C). This one passes over
    them once, for all views together, and keeps of each maximum the row that it came from; backward
    writes the gradient of every row once. See :mod:`models.kernels` for the loops.

    Args:
        point_features: (B, M, C) floating point, any sign.
        visibility: (B, M, V) bool; True where the view sees the point.

    Returns:
        (B, V, C). A view that sees no point gives zeros. The gradient of each value goes to one
        point, the lowest-indexed of those that attain the maximum.

    Raises:
        ValueError: if the shapes do not belong together or ``visibility`` is not bool.
    """
    if visibility.dim() != 3 or visibility.shape[:2] != point_features.shape[:2]:
        raise ValueError(
            f"visibility must be (B, M, V) with the B and M of point_features "
            f"{tuple(point_features.shape)}, found {tuple(visibility.shape)}"
        )
    if visibility.dtype is not torch.bool:
        raise ValueError(f"visibility must be bool, found {visibility.dtype}")
    # a call for every 32 views, as many as an int32 has bits
    pooled = [
        ops.visible_max(point_features, ops.pack_views(some), some.shape[2])[0]
        for some in visibility.split(MOST_VIEWS, dim=2)
    ]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


def pool_visible(
    point_features: Tensor, point_index: Tensor, visibility: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`visible_max_pool` for embeddings that stand for some of the points only.

    Args:
        point_features: (B, M, C). point_index: (B, M) int64, the input point of each.
        visibility: (B, N, V) of the input points, bool or 0 and 1 of any type.

    Returns:
        (B, V, C), and (B, V) bool: False for views that see none of the points with embeddings.
    """
    seen = gather_rows(visibility.bool(), point_index)  # (B, M, V)
    return visible_max_pool(point_features, seen), seen.any(dim=1)


class ViewProjection(nn.Module):
    """The head that all views share: Linear without bias, batch norm over the B * V rows, ReLU.

    Maps pooled embeddings (B, V, C) to student view codes (B, V, D). Views without a visible point
    take part in the batch statistics as zero rows, as in the published code; they are left out of
    the loss.

    Args:
        rectified: with the ReLU, for teachers whose codes are not negative, as in the paper;
            without it, for those whose codes have both signs.
    """

    def __init__(self, feature_channels: int, code_size: int = 512, rectified: bool = True):
        super().__init__()
        self.linear = nn.Linear(feature_channels, code_size, bias=False)
        self.norm = nn.BatchNorm1d(code_size)
        self.rectified = rectified

    def forward(self, pooled: Tensor) -> Tensor:
        rows = self.norm(self.linear(pooled.flatten(0, 1)))  # (B * V, D)
        return (F.relu(rows) if self.rectified else rows).view(*pooled.shape[:2], -1)


def alignment_loss(
    student_codes: Tensor, teacher_codes: Tensor, has_visible: Tensor, distance: Distance = "l1"
) -> Tensor:
    """Distance between the view codes, averaged over the views that see at least one point.

    Args:
        student_codes, teacher_codes: (B, V, D); no gradient flows to the teacher's.
        has_visible: (B, V) bool, False for views that see no point.
        distance: ``l1``, the mean absolute difference of the channels (the paper's); ``l2``, the
            mean squared difference; ``cosine``, one minus the cosine of the angle between the
            codes.

    Returns:
        Scalar; zero (with a gradient of zero) when no view of the batch sees a point. In several
        processes it is their mean that is the average over the views of all.
    """
    student, taught = student_codes.float(), teacher_codes.detach().float()
    if distance == "cosine":
        per_view = 1 - F.cosine_similarity(student, taught, dim=2)  # (B, V)
    else:
        difference = student - taught
        size = difference.abs() if distance == "l1" else difference.square()
        per_view = size.mean(dim=2)  # (B, V)
    weight = has_visible.to(per_view.dtype)
    return (per_view * weight).sum() / share_of_count(weight.sum())
