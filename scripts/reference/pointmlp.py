"""PointMLP's classification networks as ma-xu/pointMLP-pytorch published them, by their keys.

Conventions: sampling begins with point 0 and never takes a point whose squared norm is 1e-3 or
less; the difference of a neighbour to its centre is divided by the deviation of all differences of
the cloud plus 1e-5, and the centre's features follow it; no convolution has a bias, the classifier
has. Points are (B, N, 3), N at least 512, features (B, N, C), logits (B, K).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from scripts.reference.operations import farthest, nearest, rows

CENTRES, K = (512, 256, 128, 64), 24


def conv(before, after):
    return [nn.Conv1d(before, after, 1, bias=False), nn.BatchNorm1d(after)]


class ConvNormAct(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.net = nn.Sequential(*conv(before, after), nn.ReLU())

    def forward(self, x):
        return self.net(x)


class Residual(nn.Module):
    def __init__(self, channels, middle):
        super().__init__()
        self.net1 = nn.Sequential(*conv(channels, middle), nn.ReLU())
        self.net2 = nn.Sequential(*conv(middle, channels))

    def forward(self, x):
        return F.relu(self.net2(self.net1(x)) + x)


class Blocks(nn.Module):
    def __init__(self, channels, count, ratio):
        super().__init__()
        middle = int(channels * ratio)
        self.operation = nn.Sequential(*[Residual(channels, middle) for _ in range(count)])

    def forward(self, x):
        return self.operation(x)


class Pre(Blocks):
    """The neighbours of every centre, (B, S, k, 2 C), to their maximum, (B, C', S)."""

    def __init__(self, before, after, count, ratio):
        super().__init__(after, count, ratio)
        self.transfer = ConvNormAct(2 * before, after)

    def forward(self, x):
        batch, centres, k, _ = x.shape
        x = x.flatten(0, 1).mT  # (B S, 2 C, k)
        x = super().forward(self.transfer(x))
        return x.max(dim=2).values.view(batch, centres, -1).mT


class Grouper(nn.Module):
    def __init__(self, channels, centres):
        super().__init__()
        self.affine_alpha = nn.Parameter(torch.ones(1, 1, 1, channels))
        self.affine_beta = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.centres = centres

    def forward(self, points, features):
        """(B, N, 3) and (B, N, C) to (B, S, 3) and (B, S, k, 2 C)."""
        index = farthest(points, self.centres, skip=1e-3)
        centres, own = rows(points, index), rows(features, index).unsqueeze(2)
        difference = rows(features, nearest(points, centres, K)) - own  # (B, S, k, C)
        deviation = difference.flatten(1).std(dim=1).view(-1, 1, 1, 1)
        difference = self.affine_alpha * (difference / (deviation + 1e-5)) + self.affine_beta
        return centres, torch.cat([difference, own.expand_as(difference)], dim=3)


class PointMLP(nn.Module):
    def __init__(self, classes=40, widths=(64, 128, 256, 512, 1024), blocks=(2, 2, 2, 2), ratio=1):
        super().__init__()
        self.embedding = ConvNormAct(3, widths[0])
        steps = list(zip(widths, widths[1:], blocks, strict=False))
        self.local_grouper_list = nn.ModuleList(
            Grouper(*size) for size in zip(widths[:-1], CENTRES, strict=True)
        )
        self.pre_blocks_list = nn.ModuleList(Pre(*step, ratio) for step in steps)
        self.pos_blocks_list = nn.ModuleList(Blocks(*step[1:], ratio) for step in steps)
        layers = []
        for before, after in ((widths[-1], 512), (512, 256)):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(0.5)]
        self.classifier = nn.Sequential(*layers, nn.Linear(256, classes))

    def forward(self, points, visibility=None, category=None):
        x = self.embedding(points.mT)  # (B, C, N)
        stages = self.local_grouper_list, self.pre_blocks_list, self.pos_blocks_list
        for group, before, after in zip(*stages, strict=True):
            points, grouped = group(points, x.mT)
            x = after(before(grouped))
        feature = x.max(dim=2).values
        return {"logits": self.classifier(feature), "global_feature": feature}


def elite(classes=40):
    return PointMLP(classes, (32, 64, 128, 256, 256), (1, 1, 2, 1), 0.25)
