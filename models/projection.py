"""Visibility-aware feature projection (VAFP), the core of PointMCD (Zhang, Hou, Qian, TMM 2023).

A point cloud and an image of the same shape meet in what the image can see. For every view v the
embeddings e_n of the points that v sees are max-pooled channel by channel,

    f_v = max { e_n : n visible in v },

one head shared by all views maps f_v to the code size of the 2D teacher, and the result s_v is
pulled to the teacher's code t_v of that same view:  L_vafp = mean |s_v - t_v|.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import ops
from models.layers.pointops import gather_rows

MOST_VIEWS = 32


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
