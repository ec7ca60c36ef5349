"""DGCNN for part segmentation (Wang et al., TOG 2019), in the variant that PointMCD released.

Three edge convolutions of 64 channels on graphs of 40 neighbours, two of them with two layers.
Every point is labelled from their outputs, the maximum of the embeddings fused from them and a
vector learned for the category of the shape. No weight is shared with the classification encoder,
whose convolutions have one layer and other widths.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dgcnn import EdgeConv
from models.edges import edge_sum, full_precision
from models.layers import LinearNorm, SharedMLP, linear_of_parts, one_hot_category
from models.norm_act import norm_act_max
from models.outputs import StudentOutput
from models.pooling import max_over_rows

WIDTH, SLOPE, CLASS_CHANNELS = 64, 0.2, 64


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
