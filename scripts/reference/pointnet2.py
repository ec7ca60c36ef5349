"""PointNet++ as yanx27/Pointnet_Pointnet2_pytorch published it, by its keys.

Conventions: with one scale a ball's row is [offset, features], with several [features, offset]; the
last level reads [position, features] of all its points, not centred; propagation reads [skip,
interpolated]. Its outputs are a log-softmax, which is left out: these are the logits before it.
Points are (B, N, 3) float, features (B, N, C) or None, logits (B, K) or, of parts, (B, N, K).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from scripts.reference.operations import ball, farthest, interpolate, rows


def through(convs, norms, x):
    for conv, norm in zip(convs, norms, strict=True):
        x = F.relu(norm(conv(x)))
    return x


def stack(conv, norm, before, widths):
    steps = list(zip([before, *widths], widths, strict=False))
    convs = nn.ModuleList(conv(*step, 1) for step in steps)
    return convs, nn.ModuleList(norm(width) for width in widths)


class OneScale(nn.Module):
    """A set abstraction with one ball size; ``radius`` None: all points are one ball."""

    def __init__(self, before, widths, centres=None, radius=None, count=None):
        super().__init__()
        self.mlp_convs, self.mlp_bns = stack(nn.Conv2d, nn.BatchNorm2d, before, widths)
        self.centres, self.radius, self.count = centres, radius, count

    def forward(self, points, features):
        if self.radius is None:
            centres, offset = None, points.unsqueeze(1)
            grouped = features.unsqueeze(1)
        else:
            centres = rows(points, farthest(points, self.centres))
            index = ball(points, centres, self.radius, self.count)
            offset = rows(points, index) - centres.unsqueeze(2)
            grouped = None if features is None else rows(features, index)
        x = offset if grouped is None else torch.cat([offset, grouped], dim=3)
        x = through(self.mlp_convs, self.mlp_bns, x.permute(0, 3, 2, 1))  # (B, C, k, S)
        return centres, x.max(dim=2).values.mT  # (B, S, C)


class ManyScales(nn.Module):
    """A set abstraction with balls of several (radius, count, widths) on the same centres."""

    def __init__(self, before, centres, scales):
        super().__init__()
        pairs = [stack(nn.Conv2d, nn.BatchNorm2d, before + 3, widths) for _, _, widths in scales]
        self.conv_blocks = nn.ModuleList(convs for convs, _ in pairs)
        self.bn_blocks = nn.ModuleList(norms for _, norms in pairs)
        self.centres, self.scales = centres, scales

    def forward(self, points, features):
        centres = rows(points, farthest(points, self.centres))
        pooled = []
        for place, (radius, count, _) in enumerate(self.scales):
            index = ball(points, centres, radius, count)
            x = rows(points, index) - centres.unsqueeze(2)
            if features is not None:
                x = torch.cat([rows(features, index), x], dim=3)
            x = through(self.conv_blocks[place], self.bn_blocks[place], x.permute(0, 3, 2, 1))
            pooled.append(x.max(dim=2).values.mT)
        return centres, torch.cat(pooled, dim=2)


class Propagation(nn.Module):
    def __init__(self, before, widths):
        super().__init__()
        self.mlp_convs, self.mlp_bns = stack(nn.Conv1d, nn.BatchNorm1d, before, widths)

    def forward(self, points, known, skip, features):
        if features.shape[1] == 1:
            carried = features.expand(-1, points.shape[1], -1)
        else:
            carried = interpolate(points, known, features)
        x = torch.cat([skip, carried], dim=2).mT
        return through(self.mlp_convs, self.mlp_bns, x).mT


FIRST = ((0.1, 16, (32, 32, 64)), (0.2, 32, (64, 64, 128)), (0.4, 128, (64, 96, 128)))
SECOND = ((0.2, 32, (64, 64, 128)), (0.4, 64, (128, 128, 256)), (0.8, 128, (128, 128, 256)))
PART_FIRST = ((0.1, 32, (32, 32, 64)), (0.2, 64, (64, 64, 128)), (0.4, 128, (64, 96, 128)))
PART_SECOND = ((0.4, 64, (128, 128, 256)), (0.8, 128, (128, 196, 256)))


class Classification(nn.Module):
    def __init__(self, several=False, classes=40):
        super().__init__()
        if several:
            self.sa1, self.sa2 = ManyScales(0, 512, FIRST), ManyScales(320, 128, SECOND)
        else:
            self.sa1 = OneScale(3, (64, 64, 128), 512, 0.2, 32)
            self.sa2 = OneScale(131, (128, 128, 256), 128, 0.4, 64)
        self.sa3 = OneScale(643 if several else 259, (256, 512, 1024))
        self.fc1, self.bn1 = nn.Linear(1024, 512), nn.BatchNorm1d(512)
        self.fc2, self.bn2 = nn.Linear(512, 256), nn.BatchNorm1d(256)
        self.fc3 = nn.Linear(256, classes)
        self.drop1, self.drop2 = nn.Dropout(0.4), nn.Dropout(0.5 if several else 0.4)

    def forward(self, points, visibility=None, category=None):
        centres, x = self.sa2(*self.sa1(points, None))
        x = self.sa3(centres, x)[1].squeeze(1)
        x = self.drop1(F.relu(self.bn1(self.fc1(x))))
        return {"logits": self.fc3(self.drop2(F.relu(self.bn2(self.fc2(x)))))}


class PartSegmentation(nn.Module):
    def __init__(self, several=False, parts=50, categories=16):
        super().__init__()
        if several:
            self.sa1 = ManyScales(3, 512, PART_FIRST)
            self.sa2 = ManyScales(320, 128, PART_SECOND)
        else:
            self.sa1 = OneScale(6, (64, 64, 128), 512, 0.2, 32)
            self.sa2 = OneScale(131, (128, 128, 256), 128, 0.4, 64)
        first, second = (320, 512) if several else (128, 256)
        self.sa3 = OneScale(3 + second, (256, 512, 1024))
        self.fp3 = Propagation(second + 1024, (256, 256))
        self.fp2 = Propagation(first + 256, (256, 128))
        self.fp1 = Propagation(categories + 6 + 128, (128,) * (2 if several else 3))
        self.conv1, self.bn1 = nn.Conv1d(128, 128, 1), nn.BatchNorm1d(128)
        self.conv2, self.drop1 = nn.Conv1d(128, parts, 1), nn.Dropout(0.5)
        self.categories = categories

    def forward(self, points, visibility, category):
        first, at_first = self.sa1(points, points)
        second, at_second = self.sa2(first, at_first)
        whole = self.sa3(second, at_second)[1]
        at_second = self.fp3(second, None, at_second, whole)
        at_first = self.fp2(first, second, at_first, at_second)
        named = F.one_hot(category, self.categories).to(points.dtype).unsqueeze(1)
        skip = torch.cat([named.expand(-1, points.shape[1], -1), points, points], dim=2)
        x = self.fp1(points, first, skip, at_first).mT
        return {"logits": self.conv2(self.drop1(F.relu(self.bn1(self.conv1(x))))).mT}
