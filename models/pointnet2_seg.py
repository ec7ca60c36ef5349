"""PointNet++ for part segmentation (Qi et al., NeurIPS 2017), with one scale (SSG) and several.

Set abstractions lead down to 512 and 128 centres and to one vector for the cloud, feature
propagations back up to all points. Layers and their sizes are those of the PyTorch implementation
that most published weights belong to, without normals: there the cloud's own coordinates stand
where other features of the input could, so they are read twice at the first and at the last level.
No weight is shared with the classification encoders, whose first level reads offsets only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import SharedMLP, one_hot_category
from models.outputs import StudentOutput
from models.pointnet2 import FIRST_CENTRES, SECOND_CENTRES, SSG, Scale, SetAbstraction
from models.pointops import Sampling, gather_rows, interpolate_three_nn, sample_centres

MSG = (
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
    """PointNet++ with one ball size a level."""
    return PointNet2Segmenter(num_parts, num_categories, SSG, (128, 128, 128))


def pointnet2_msg_segmenter(num_parts: int, num_categories: int) -> PointNet2Segmenter:
    """PointNet++ with three ball sizes in the first level and two in the second."""
    return PointNet2Segmenter(num_parts, num_categories, MSG, (128, 128))
