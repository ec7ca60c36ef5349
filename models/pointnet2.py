"""PointNet++ (Qi et al., "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric
Space", NeurIPS 2017), the classification encoders with one scale (SSG) and several (MSG).

A set abstraction puts a small PointNet on the ball around each of some farthest-point samples.
Two of them lead from N points to 512 and 128; a last one pools those 128 into the cloud feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import SharedMLP
from models.outputs import EncoderOutput
from models.pointops import Sampling, ball_query, full_float32, gather_rows, sample_centres
from models.pooling import max_over_rows


class Scale(NamedTuple):
    """One ball size: its radius, how many points are taken, and the widths of its network."""

    radius: float
    points: int
    widths: tuple[int, int, int]


FIRST_CENTRES, SECOND_CENTRES = 512, 128
# paper: the balls of SSG's first level hold 64 points.
# here: 32, the layout of the PyTorch implementation that most published weights belong to.
SSG = (
    (Scale(0.2, 32, (64, 64, 128)),),
    (Scale(0.4, 64, (128, 128, 256)),),
)
MSG = (
    (
        Scale(0.1, 16, (32, 32, 64)),
        Scale(0.2, 32, (64, 64, 128)),
        Scale(0.4, 128, (64, 96, 128)),
    ),
    (
        Scale(0.2, 32, (64, 64, 128)),
        Scale(0.4, 64, (128, 128, 256)),
        Scale(0.8, 128, (128, 128, 256)),
    ),
)


class BallNet(SharedMLP):
    """max over the ball around c_i of MLP([x_j - c_i ; f_j]): the PointNet of one scale.

    ``linears[0]`` reads the offset in its first three columns, the features in the others.
    """

    def __init__(self, feature_channels: int, scale: Scale):
        super().__init__([3 + feature_channels, *scale.widths], bias=True)
        self.radius, self.points = scale.radius, scale.points

    def forward(self, points: Tensor, features: Tensor | None, centres: Tensor) -> Tensor:
        """``points`` (B, N, 3), ``features`` (B, N, C) or None, ``centres`` (B, S, 3).

        Returns (B, S, D), D the last of the scale's widths.
        """
        index = ball_query(points, centres, self.radius, self.points)  # (B, S, k)
        if features is None:
            offset = gather_rows(points, index) - centres.unsqueeze(2)  # (B, S, k, 3)
            return self.forward_max(offset)
        return self.max_after_first_linear(self.first_linear(points, features, centres, index))

    def first_linear(
        self, points: Tensor, features: Tensor, centres: Tensor, index: Tensor
    ) -> Tensor:
        """``linears[0]`` on every ball, (B, S, k, widths[0]).

        W [x_j - c_i ; f_j] + b = (W1 x_j + W2 f_j + b) - W1 c_i: the bracket is computed once for
        every point and not for every ball that it is in, and the 3 + C columns are never gathered.
        """
        first = self.linears[0]
        of_offset, of_features = first.weight[:, :3], first.weight[:, 3:]
        with full_float32(points):  # the difference of two positions is small beside either
            of_point, of_centre = F.linear(points, of_offset), F.linear(centres, of_offset)
        of_point = of_point + F.linear(features, of_features, first.bias)
        return gather_rows(of_point, index) - of_centre.unsqueeze(2)


class SetAbstraction(nn.Module):
    """The ball networks of all scales on the same centres, side by side."""

    def __init__(self, feature_channels: int, scales: Sequence[Scale]):
        super().__init__()
        self.balls = nn.ModuleList(BallNet(feature_channels, scale) for scale in scales)
        self.channels = sum(scale.widths[-1] for scale in scales)

    def forward(self, points: Tensor, features: Tensor | None, centres: Tensor) -> Tensor:
        """As :class:`BallNet`, to (B, S, ``channels``)."""
        return torch.cat([ball(points, features, centres) for ball in self.balls], dim=2)


class PointNet2(nn.Module):
    """Encoder: (B, N, 3) points, N >= 512, to 128 embeddings of 1024 channels (not negative).

    ``levels`` holds the scales of the two set abstractions. Sampling starts at point 0.
    """

    feature_channels = 1024
    global_channels = 1024
    sampling: Sampling = "farthest"

    def __init__(self, levels: Sequence[Sequence[Scale]]):
        super().__init__()
        self.first = SetAbstraction(0, levels[0])
        self.second = SetAbstraction(self.first.channels, levels[1])
        self.last = SharedMLP(
            [3 + self.second.channels, 256, 512, self.feature_channels], bias=True
        )

    def forward(self, points: Tensor) -> EncoderOutput:
        """``points`` (B, N, 3); returns the embeddings of the 128 centres that the last level
        pools, the input points that these are, and the maximum of the embeddings.

        Raises:
            ConfigError: if there are fewer than 512 points.
        """
        index = sample_centres(points, FIRST_CENTRES, self.sampling)  # (B, 512)
        centres = gather_rows(points, index)
        # the farthest-point sample of a farthest-point sample is its beginning
        last_centres = centres[:, :SECOND_CENTRES]
        x = self.first(points, None, centres)  # (B, 512, C1)
        x = self.second(centres, x, last_centres)  # (B, 128, C2)
        features = self.last(torch.cat([last_centres, x], dim=2))  # (B, 128, 1024)
        return EncoderOutput(
            point_features=features,
            point_index=index[:, :SECOND_CENTRES],
            global_feature=max_over_rows(features),
        )


def pointnet2_ssg() -> PointNet2:
    """PointNet++ with one ball size a level."""
    return PointNet2(SSG)


def pointnet2_msg() -> PointNet2:
    """PointNet++ with three ball sizes a level."""
    return PointNet2(MSG)
