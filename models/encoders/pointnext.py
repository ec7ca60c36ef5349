"""PointNeXt-S (Qian et al., "PointNeXt: Revisiting PointNet++ with Improved Training and Scaling
Strategies", NeurIPS 2022), the classification encoder.

Four set abstractions halve the points, each with a residual connection of its centres,

    f_i' = relu(max_j BN(V relu(BN(U [(x_j - x_i) / r ; f_j]))) + S f_i),    j in the ball around i,

r being its radius; a last network pools [x_i ; f_i] of the remaining ones into the cloud feature.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.edges import edge_norm_relu, full_precision
from models.layers.mlp import LinearNorm, SharedMLP
from models.layers.norms import norm_act_max
from models.layers.pointops import (
    Sampling,
    ball_query,
    full_float32,
    gather_rows,
    max_over_rows,
    sample_centres,
)
from models.outputs import EncoderOutput
from utils.errors import ConfigError

RADII = (0.15, 0.225, 0.3375, 0.50625)
NEIGHBOURS = 32
FEWEST = 2 ** len(RADII)  # points, of which one is left


class Abstraction(nn.Module):
    """One of the set abstractions, from ``before`` to 2 ``before`` channels.

    Its first linear map is applied to points instead of neighbours, see :mod:`models.layers.edges`.
    """

    def __init__(self, before: int, radius: float):
        super().__init__()
        self.radius = radius
        self.first = LinearNorm(3 + before, before)
        self.second = LinearNorm(before, 2 * before)
        self.skip = nn.Linear(before, 2 * before)

    def forward(self, points: Tensor, features: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """``points`` (B, N, 3), ``features`` (B, N, C) and ``chosen`` (B, S), the centres among
        them; returns the centres (B, S, 3) and their features (B, S, 2 C)."""
        centres = gather_rows(points, chosen)
        index = ball_query(points, centres, self.radius, NEIGHBOURS)  # (B, S, k)
        of_offset, of_features = self.first.linear.weight.tensor_split([3], dim=1)
        with full_float32(points):  # the difference of two positions is small beside either
            position = F.linear(points, of_offset / self.radius)
        other = position + full_precision(F.linear(features, of_features))  # (B, N, C)
        own = -gather_rows(position, chosen)
        x = edge_norm_relu(self.first.norm, own, other, index)  # (B, S, k, C)
        x = norm_act_max(self.second.norm, self.second.linear(x), slope=1.0)
        return centres, F.relu(x + self.skip(gather_rows(features, chosen)), inplace=True)


class PointNeXt(nn.Module):
    """Encoder: (B, N, 3) points, N >= 16, to N / 16 embeddings (not negative). Sampling starts at
    point 0.

    Args:
        width: channels after the first layer; the last ones are 16 times as many.
        inputs: 3, or 4 with the height of each point over the lowest of its cloud.
        up: the axis along which that is measured.
    """

    sampling: Sampling = "farthest"

    def __init__(self, width: int = 32, inputs: int = 3, up: int = 2):
        super().__init__()
        self.inputs, self.up = inputs, up
        self.feature_channels = self.global_channels = last = width * 2 ** len(RADII)
        self.first = nn.Linear(inputs, width)
        self.levels = nn.ModuleList(
            Abstraction(width * 2**level, radius) for level, radius in enumerate(RADII)
        )
        self.last = SharedMLP([3 + last, last, last])

    def forward(self, points: Tensor) -> EncoderOutput:
        """``points`` (B, N, 3), of four inputs also (B, N, 4) with the heights at hand; returns the
        embeddings of the last N / 16 centres, the input points that these are, and the maximum of
        the embeddings.

        Raises:
            ConfigError: if there are fewer than 16 points.
        """
        count = points.shape[1]
        if count < FEWEST:
            raise ConfigError(
                f"PointNeXt halves its points {len(RADII)} times: found a cloud of {count} points, "
                f"expected at least {FEWEST}"
            )
        x = self.first(self.read(points))
        points = points[..., :3].contiguous()
        chosen = index = sample_centres(points, count // 2, self.sampling)
        for level in self.levels:
            points, x = level(points, x, chosen)
            # the farthest-point sample of a farthest-point sample is its beginning
            chosen = sample_centres(points, points.shape[1] // 2, "stored")
        features = self.last(torch.cat([points, x], dim=2))  # (B, N / 16, 16 width)
        return EncoderOutput(
            point_features=features,
            point_index=index[:, : points.shape[1]],
            global_feature=max_over_rows(features),
        )

    def read(self, points: Tensor) -> Tensor:
        """What the first layer is given: (B, N, ``inputs``)."""
        if self.inputs == points.shape[2]:
            return points
        along = points[..., self.up : self.up + 1]
        return torch.cat([points, along - along.amin(dim=1, keepdim=True)], dim=2)
