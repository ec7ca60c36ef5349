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

from models.layers.mlp import SharedMLP, one_hot_category
from models.layers.pointops import (
    Sampling,
    ball_query,
    full_float32,
    gather_rows,
    interpolate_three_nn,
    max_over_rows,
    sample_centres,
)
from models.outputs import EncoderOutput, StudentOutput


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
# part segmentation: other radii and more points per ball
MSG_SEGMENTATION = (
    (
        Scale(0.1, 32, (32, 32, 64)),
        Scale(0.2, 64, (64, 64, 128)),
        Scale(0.4, 128, (64, 96, 128)),
    ),
    (
        Scale(0.4, 64, (128, 128, 256)),
        Scale(0.8, 128, (128, 196, 256)),
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
    """PointNet++ with one ball size per level."""
    return PointNet2(SSG)


def pointnet2_msg() -> PointNet2:
    """PointNet++ with three ball sizes per level."""
    return PointNet2(MSG)


class Propagation(SharedMLP):
    """MLP([f_i ; 3-NN interpolation of g at p_i]): features of few points carried to more.

    Interpolation is linear and its weights sum to 1, so the first linear map is applied to the few
    points and its result is interpolated.
    """

    def __init__(self, skip_channels: int, known_channels: int, widths: Sequence[int]):
        super().__init__([skip_channels + known_channels, *widths], bias=True)
        self.skip_channels = skip_channels

    def forward(self, points: Tensor, skip: Tensor, known: Tensor, features: Tensor) -> Tensor:
        """``skip`` (B, N, C1) at ``points`` (B, N, 3), ``features`` (B, S, C2) at ``known``.

        Returns (B, N, D), D the last of the widths.
        """
        first = self.linears[0]
        of_skip, of_known = first.weight.tensor_split([self.skip_channels], dim=1)
        carried = interpolate_three_nn(points, known, F.linear(features, of_known))
        return self.after_first_linear(F.linear(skip, of_skip, first.bias) + carried)


class PointNet2Segmenter(nn.Module):
    """(B, N, 3) points, N >= 512, and (B,) categories to logits (B, N, num_parts).

    Args:
        levels: the scales of the two set abstractions.
        last_widths: of the last feature propagation, whose output is the embedding of each point.
    """

    feature_channels = 128
    global_channels = 1024
    encoder_layers = ("first", "second", "last", "to_second", "to_first", "to_points")
    category_layers = ("to_points",)
    sampling: Sampling = "farthest"

    def __init__(
        self,
        num_parts: int,
        num_categories: int,
        levels: Sequence[Sequence[Scale]],
        last_widths: Sequence[int],
    ):
        super().__init__()
        self.num_categories = num_categories
        self.first = SetAbstraction(3, levels[0])
        self.second = SetAbstraction(self.first.channels, levels[1])
        self.last = SharedMLP([3 + self.second.channels, 256, 512, self.global_channels], bias=True)
        self.to_second = Propagation(self.second.channels, self.global_channels, [256, 256])
        self.to_first = Propagation(self.first.channels, 256, [256, 128])
        self.to_points = Propagation(num_categories + 6, 128, last_widths)
        self.head = SharedMLP([self.feature_channels, 128], bias=True)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(128, num_parts)

    def forward(self, points: Tensor, category: Tensor | None) -> StudentOutput:
        """``points`` (B, N, 3), ``category`` (B,) int64; N embeddings of 128, not negative.

        Raises:
            ConfigError: a category that is missing or out of range, or fewer than 512 points.
        """
        kind = one_hot_category(category, self.num_categories, points)  # (B, categories)
        sample = sample_centres(points, FIRST_CENTRES, self.sampling)
        centres = gather_rows(points, sample)  # (B, 512, 3)
        # the farthest-point sample of a farthest-point sample is its beginning
        few_centres = centres[:, :SECOND_CENTRES]
        first = self.first(points, points, centres)  # (B, 512, C1)
        second = self.second(centres, first, few_centres)  # (B, 128, C2)
        cloud = self.last.forward_max(torch.cat([few_centres, second], dim=2))  # (B, 1024)

        # a single known position serves every point, wherever it lies
        x = self.to_second(few_centres, second, few_centres[:, :1], cloud.unsqueeze(1))
        x = self.to_first(centres, first, few_centres, x)  # (B, 512, 128)
        kind = kind.unsqueeze(1).expand(-1, points.shape[1], -1)
        x = self.to_points(points, torch.cat([kind, points, points], dim=2), centres, x)
        every = torch.arange(points.shape[1], device=points.device)
        return StudentOutput(
            logits=self.classifier(self.dropout(self.head(x))),
            global_feature=cloud,
            point_features=x,  # (B, N, 128)
            point_index=every.expand(len(points), -1),
        )


def pointnet2_ssg_segmenter(num_parts: int, num_categories: int) -> PointNet2Segmenter:
    """PointNet++ with one ball size per level."""
    return PointNet2Segmenter(num_parts, num_categories, SSG, (128, 128, 128))


def pointnet2_msg_segmenter(num_parts: int, num_categories: int) -> PointNet2Segmenter:
    """PointNet++ with three ball sizes in the first level and two in the second."""
    return PointNet2Segmenter(num_parts, num_categories, MSG_SEGMENTATION, (128, 128))
