"""PointNet (Qi et al., "PointNet: Deep Learning on Point Sets for 3D Classification and
Segmentation", CVPR 2017), in the variant that PointMCD trained.

Every point passes the same small network on its own, the cloud is their maximum. Two transform
networks predict a matrix for each cloud: 3x3 on the positions, 64x64 on the first features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.mlp import SharedMLP, linear_of_parts, one_hot_category
from models.layers.pointops import full_float32, max_over_rows
from models.outputs import EncoderOutput, StudentOutput


class TransformNet(nn.Module):
    """A small PointNet that predicts a C x C matrix for each cloud; it starts at the identity.

    paper: widths 64-128-1024, then 512-256.
    here: 64-64-256, then 64-64, as in PointMCD's student.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.of_points = SharedMLP([channels, 64, 64, 256], bias=True)
        self.of_cloud = SharedMLP([256, 64, 64], bias=True)
        self.last = nn.Linear(64, channels * channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, C, C)."""
        cloud = self.of_points.forward_max(x)  # (B, 256)
        change = self.last(self.of_cloud(cloud)).float()  # (B, C * C)
        channels = x.shape[2]
        return change.view(-1, channels, channels) + torch.eye(channels, device=x.device)


class PointNet(nn.Module):
    """Encoder: (B, N, 3) points to an embedding of 1024 channels (not negative) for every point.

    The last layer ends in a ReLU, as in PointMCD and unlike in some implementations: the product
    of embedding and visibility in its projection is a masked maximum only because of that.
    """

    feature_channels = 1024
    global_channels = 1024
    extra_losses = ("transform",)

    def __init__(self):
        super().__init__()
        self.point_transform = TransformNet(3)
        self.feature_transform = TransformNet(64)
        self.first = SharedMLP([3, 64], bias=True)
        self.rest = SharedMLP([64, 128, self.feature_channels], bias=True)

    def forward(self, points: Tensor) -> EncoderOutput:
        """``points`` (B, N, 3); returns N embeddings, in the order of the points, and their max.

        ``extra_losses["transform"]``: the orthogonality term of the feature transform, unweighted.
        """
        with full_float32(points):
            points = points.float() @ self.point_transform(points.float())
        x = self.first(points)  # (B, N, 64)
        transform = self.feature_transform(x)  # (B, 64, 64)
        features = self.rest(x @ transform.to(x.dtype))  # (B, N, 1024)
        every = torch.arange(points.shape[1], device=points.device)
        return EncoderOutput(
            point_features=features,
            point_index=every.expand(len(points), -1),
            global_feature=max_over_rows(features),
            extra_losses={"transform": orthogonality(transform)},
        )


def orthogonality(transform: Tensor) -> Tensor:
    """|| A A^T - I ||, the Frobenius norm, averaged over the batch of A (B, C, C): a scalar."""
    with torch.autocast(transform.device.type, enabled=False):
        transform = transform.float()
        gram = transform @ transform.transpose(1, 2)
    return (gram - torch.eye(gram.shape[1], device=gram.device)).norm(dim=(1, 2)).mean()


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
    extra_losses = PointNet.extra_losses
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
