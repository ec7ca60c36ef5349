"""PointNet for part segmentation (Qi et al., CVPR 2017), in the variant that PointMCD released.

The encoder is that of classification, weight for weight, so either can start from the other. Every
point is labelled from its embedding, the maximum of all embeddings and the category of the shape.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import SharedMLP, linear_of_parts, one_hot_category
from models.outputs import StudentOutput
from models.pointnet import PointNet


class PointNetSegmenter(nn.Module):
    """(B, N, 3) points and (B,) categories to logits (B, N, num_parts).

    Four shared layers read [embedding 1024 ; their maximum 1024 ; one-hot category]; there is no
    dropout and no bias.

    paper: the layers read the features of all widths, 64 to 2048, and the 3x3 and 64x64 transforms
    are larger.
    here: as PointMCD's student, whose embeddings are the last ones only.
    """

    feature_channels = PointNet.feature_channels
    global_channels = PointNet.global_channels
    encoder_layers = ("encoder",)
    category_layers = ()

    def __init__(self, num_parts: int, num_categories: int):
        super().__init__()
        self.num_categories = num_categories
        self.encoder = PointNet()
        told = self.feature_channels + self.global_channels + num_categories
        self.decoder = SharedMLP([told, 512, 256, 128])
        self.classifier = nn.Linear(128, num_parts, bias=False)

    def forward(self, points: Tensor, category: Tensor | None) -> StudentOutput:
        """``points`` (B, N, 3), ``category`` (B,) int64; the embeddings are those of the encoder.

        Raises:
            ConfigError: a category that is missing or out of range.
        """
        kind = one_hot_category(category, self.num_categories, points)  # (B, categories)
        output = self.encoder(points)
        cloud = torch.cat([output.global_feature, kind], dim=1).unsqueeze(1)
        x = linear_of_parts(self.decoder.linears[0], output.point_features, cloud)
        logits = self.classifier(self.decoder.after_first_linear(x))
        return StudentOutput(
            logits=logits,
            global_feature=output.global_feature,
            point_features=output.point_features,
            point_index=output.point_index,
            extra_losses=output.extra_losses,
        )
