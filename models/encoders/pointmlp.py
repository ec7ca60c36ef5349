"""PointMLP (Ma et al., "Rethinking Network Design and Local Geometry in Point Cloud: A Simple
Residual MLP Framework", ICLR 2022), the classification encoder and its small form, elite.

Each of four stages halves the points. It describes the neighbours j of a centre i by

    W [alpha (f_j - f_i) / s + beta ; f_i],    j in the k nearest of i in space, itself included,

where s is the standard deviation of all these differences of a cloud and alpha, beta are learnt per
channel. Residual blocks follow on every neighbour, the maximum over them, and such blocks again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.edges import edge_deviation, edge_norm_relu, full_precision
from models.layers.mlp import LinearNorm, SharedMLP
from models.layers.norms import norm_act
from models.layers.pointops import (
    Sampling,
    full_float32,
    gather_rows,
    knn,
    max_over_rows,
    sample_centres,
)
from models.outputs import EncoderOutput

CENTRES = (512, 256, 128, 64)
NEIGHBOURS = 24


class Residual(nn.Module):
    """relu(BN(V relu(BN(U x))) + x) on every row."""

    def __init__(self, channels: int, middle: int):
        super().__init__()
        self.squeeze = LinearNorm(channels, middle, 0.0)
        self.expand = LinearNorm(middle, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) to the same."""
        return F.relu(self.before_activation(x), inplace=True)

    def forward_max(self, x: Tensor) -> Tensor:
        """The maximum of :meth:`forward` over the rows of each group: (..., k, channels) to
        (..., channels)."""
        return F.relu(max_over_rows(self.before_activation(x)), inplace=True)

    def before_activation(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        change = norm_act(self.expand.norm, self.expand.linear(self.squeeze(rows)), slope=1.0)
        return change.add_(rows).view(x.shape)


class Stage(nn.Module):
    """From the features of all points to those of some of them, the centres.

    With W = [W1, W2] and g_j = W1 alpha f_j / s the description is g_j - g_i + W1 beta + W2 f_i: it
    is computed once per point and not once for every neighbourhood that the point is in.

    Args:
        before, after: channels.
        blocks: how many residual blocks on neighbours, and how many on centres.
        ratio: of the channels inside a block to those around it.
    """

    def __init__(self, before: int, after: int, blocks: int, ratio: float):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(before))
        self.beta = nn.Parameter(torch.zeros(before))
        self.describe = LinearNorm(2 * before, after)
        sizes = after, int(after * ratio)
        self.on_neighbours = nn.ModuleList(Residual(*sizes) for _ in range(blocks))
        self.on_centres = nn.ModuleList(Residual(*sizes) for _ in range(blocks))

    def forward(self, points: Tensor, features: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """``points`` (B, N, 3), N >= k, ``features`` (B, N, ``before``) and ``chosen`` (B, S), the
        centres among them; returns the centres (B, S, 3) and their features (B, S, ``after``)."""
        centres = gather_rows(points, chosen)
        x = self.neighbours(features, chosen, knn(points, centres, NEIGHBOURS))  # (B, S, k, after)
        *blocks, last = self.on_neighbours
        for block in blocks:
            x = block(x)
        x = last.forward_max(x)
        for block in self.on_centres:
            x = block(x)
        return centres, x

    def neighbours(self, features: Tensor, chosen: Tensor, index: Tensor) -> Tensor:
        """The description of every neighbour ``index`` (B, S, k), normalised and activated."""
        own = gather_rows(features, chosen)  # (B, S, before)
        deviation = edge_deviation(full_precision(own), full_precision(features), index)
        of_difference, of_centre = self.describe.linear.weight.chunk(2, dim=1)
        with full_float32(features):  # the difference of two neighbours is small beside either
            other = F.linear(full_precision(features), of_difference * self.alpha)
        other = other / (deviation + 1e-5)  # (B, N, after)
        own = full_precision(F.linear(own, of_centre, of_difference @ self.beta))
        return edge_norm_relu(self.describe.norm, own - gather_rows(other, chosen), other, index)


class PointMLP(nn.Module):
    """Encoder: (B, N, 3) points, N >= 512, to 64 embeddings (not negative). Sampling starts at
    point 0.

    Args:
        widths: channels after the first layer and after each stage.
        blocks: of each stage, on neighbours and again on centres.
        ratio: of the channels inside a residual block to those around it.
    """

    sampling: Sampling = "farthest"

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], ratio: float):
        super().__init__()
        self.feature_channels = self.global_channels = widths[-1]
        self.first = SharedMLP([3, widths[0]])
        sizes = zip(widths, widths[1:], blocks, strict=False)
        self.stages = nn.ModuleList(Stage(*size, ratio) for size in sizes)

    def forward(self, points: Tensor) -> EncoderOutput:
        """``points`` (B, N, 3); returns the embeddings of the last 64 centres, the input points
        that these are, and the maximum of the embeddings.

        Raises:
            ConfigError: if there are fewer than 512 points.
        """
        chosen = index = sample_centres(points, CENTRES[0], self.sampling)  # (B, 512)
        x = self.first(points)
        for stage, after in zip(self.stages, (*CENTRES[1:], 0), strict=True):
            points, x = stage(points, x, chosen)
            # the farthest-point sample of a farthest-point sample is its beginning
            chosen = sample_centres(points, after, "stored")
        return EncoderOutput(
            point_features=x,  # (B, 64, C)
            point_index=index[:, : CENTRES[-1]],
            global_feature=max_over_rows(x),
        )


def pointmlp() -> PointMLP:
    """The network of the paper's tables."""
    return PointMLP((64, 128, 256, 512, 1024), (2, 2, 2, 2), 1.0)


def pointmlp_elite() -> PointMLP:
    """Half the width, and a quarter of it inside the residual blocks."""
    return PointMLP((32, 64, 128, 256, 256), (1, 1, 2, 1), 0.25)
