"""DGCNN (Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", TOG 2019), PointMCD's form
and, for classification, the paper's.

Four edge convolutions, each on the graph of the k nearest neighbours in the feature space of the
layer before (the first: in space), are concatenated and fused into one embedding per point:

    x_i' = max_j LeakyReLU(BN(W [x_i ; x_j - x_i])),    j in the k nearest of x_i, itself included.

paper: the embedding ends in LeakyReLU and the cloud feature is max || mean, 2048 channels.
here: it ends in ReLU and the cloud feature is the maximum, 1024 channels, because that is the
student that PointMCD trained and released. :class:`PublishedDGCNN` is the paper's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.edges import edge_moments, edge_sum, full_precision, neighbour_max
from models.layers.mlp import LinearNorm, SharedMLP, linear_of_parts, one_hot_category
from models.layers.norms import norm_act_max, norm_as_affine
from models.layers.pointops import knn, max_over_rows
from models.outputs import EncoderOutput, StudentOutput

WIDTHS = (64, 64, 128, 256)
SLOPE = 0.2


class EdgeConv(nn.Module):
    """One edge convolution on the graph of the ``k`` nearest neighbours of its own input.

    W [x_i ; x_j - x_i] = (W1 - W2) x_i + W2 x_j, so the linear map runs on points instead of edges;
    see :mod:`models.layers.edges` for what that makes of the normalisation and the maximum.
    """

    def __init__(self, in_channels: int, out_channels: int, k: int):
        super().__init__()
        self.k = k
        self.linear = nn.Linear(2 * in_channels, out_channels, bias=False)
        self.norm = nn.BatchNorm1d(out_channels)

    def edge_terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Own and other (B, N, out_channels) with own_i + other_j = BN(W [x_i ; x_j - x_i]).

        ``x`` is (B, N, in_channels); the third is the graph, (B, N, k) int64.
        """
        index = knn(x.detach(), x.detach(), self.k)
        of_point, of_edge = self.linear.weight.chunk(2, dim=1)
        own = full_precision(F.linear(x, of_point - of_edge))  # (B, N, C)
        other = full_precision(F.linear(x, of_edge))  # (B, N, C)
        moments = edge_moments(own, other, index) if self.norm.training else None
        scale, shift = norm_as_affine(self.norm, moments, index.numel())
        return torch.addcmul(shift, own, scale), other * scale, index

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, in_channels) to (B, N, out_channels); N must be at least ``k``."""
        own, other, index = self.edge_terms(x)
        # scaled before the maximum, because the sign of the scale decides which neighbour that is
        return F.leaky_relu(own + neighbour_max(other, index), SLOPE)


class DGCNN(nn.Module):
    """Encoder: (B, N, 3) points to an embedding of 1024 channels (not negative) for every point."""

    feature_channels = 1024
    global_channels = 1024

    def __init__(self, k: int = 20):
        super().__init__()
        self.convs = nn.ModuleList(
            EdgeConv(before, after, k) for before, after in zip((3, *WIDTHS), WIDTHS, strict=False)
        )
        self.fusion = SharedMLP([sum(WIDTHS), self.feature_channels])

    def forward(self, points: Tensor) -> EncoderOutput:
        """``points`` (B, N, 3); returns N embeddings, in the order of the points, and their max."""
        scales = []
        x = points
        for conv in self.convs:
            x = conv(x)
            scales.append(x)
        features = self.fusion(torch.cat(scales, dim=2))  # (B, N, 1024)
        every = torch.arange(points.shape[1], device=points.device)
        return EncoderOutput(
            point_features=features,
            point_index=every.expand(len(points), -1),
            global_feature=self.pool(features),
        )

    def pool(self, features: Tensor) -> Tensor:
        """(B, N, 1024) to (B, ``global_channels``)."""
        return max_over_rows(features)


class PublishedDGCNN(DGCNN):
    """Encoder: the paper's form, whose embeddings have both signs; the cloud feature is their
    maximum, then their mean."""

    global_channels = 2048

    def __init__(self, k: int = 20):
        super().__init__(k)
        self.fusion = LinearNorm(sum(WIDTHS), self.feature_channels, SLOPE)

    def pool(self, features: Tensor) -> Tensor:
        return torch.cat([max_over_rows(features), features.mean(dim=1)], dim=1)


WIDTH, CLASS_CHANNELS = 64, 64


class TwoLayerEdgeConv(EdgeConv):
    """x_i' = max_j act(BN(V act(BN(W [x_i ; x_j - x_i])))), act = LeakyReLU of slope 0.2.

    The first layer is computed on points, as in :class:`EdgeConv`; the second one reads edges,
    which are therefore built, once. Its activation rises and comes after the maximum.
    """

    def __init__(self, in_channels: int, out_channels: int, k: int):
        super().__init__(in_channels, out_channels, k)
        self.second = nn.Linear(out_channels, out_channels, bias=False)
        self.second_norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, in_channels) to (B, N, out_channels); N must be at least ``k``."""
        own, other, index = self.edge_terms(x)
        edges = F.leaky_relu(edge_sum(own, other, index), SLOPE, inplace=True)  # (B, N, k, C)
        return full_precision(norm_act_max(self.second_norm, self.second(edges), SLOPE))


class DGCNNSegmenter(nn.Module):
    """(B, N, 3) points, N >= ``k``, and (B,) categories to logits (B, N, num_parts).

    paper: a transform network turns the cloud first, the embedding ends in a LeakyReLU.
    here: no transform and a ReLU, because that is the student that PointMCD trained and released.
    """

    feature_channels = 1024
    global_channels = 1024
    encoder_layers = ("convs", "fusion")
    category_layers = ()

    def __init__(self, num_parts: int, num_categories: int, k: int = 40):
        super().__init__()
        self.num_categories = num_categories
        self.convs = nn.ModuleList(
            [TwoLayerEdgeConv(3, WIDTH, k), TwoLayerEdgeConv(WIDTH, WIDTH, k)]
            + [EdgeConv(WIDTH, WIDTH, k)]
        )
        self.fusion = SharedMLP([3 * WIDTH, self.feature_channels])
        self.category = LinearNorm(num_categories, CLASS_CHANNELS, SLOPE)
        told = self.global_channels + CLASS_CHANNELS + 3 * WIDTH
        self.decoder = nn.ModuleList(
            LinearNorm(before, after, SLOPE)
            for before, after in ((told, 256), (256, 256), (256, 128))
        )
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(128, num_parts, bias=False)

    def forward(self, points: Tensor, category: Tensor | None) -> StudentOutput:
        """``points`` (B, N, 3), ``category`` (B,) int64; N embeddings of 1024, not negative.

        Raises:
            ConfigError: a category that is missing or out of range, or fewer than ``k`` points.
        """
        kind = self.category(one_hot_category(category, self.num_categories, points))  # (B, 64)
        scales = []
        x = points
        for conv in self.convs:
            x = conv(x)
            scales.append(x)
        local = torch.cat(scales, dim=2)  # (B, N, 192)
        features = self.fusion(local)  # (B, N, 1024)
        cloud = max_over_rows(features)
        told = torch.cat([cloud, kind], dim=1).unsqueeze(1)  # (B, 1, 1088)

        first, second, third = self.decoder
        x = self.dropout(first.after_linear(linear_of_parts(first.linear, told, local)))
        x = third(self.dropout(second(x)))
        every = torch.arange(points.shape[1], device=points.device)
        return StudentOutput(
            logits=self.classifier(x),
            global_feature=cloud,
            point_features=features,
            point_index=every.expand(len(points), -1),
        )
