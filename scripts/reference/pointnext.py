"""PointNeXt-S for classification as guochengqian/PointNeXt published it, by its keys.

Conventions: an offset is divided by the radius of its ball and stands before the features; a
convolution has a bias where no normalisation follows; of four inputs the last is the height over
the lowest point along y, the axis that is up in the files. Points are (B, N, 3), features
(B, C, N), logits (B, K).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from scripts.reference.operations import ball, farthest, rows

RADII, NEIGHBOURS, UP = (0.15, 0.225, 0.3375, 0.50625), 32, 1


def normed(conv, norm, before, after, *activation):
    return nn.Sequential(conv(before, after, 1, bias=False), norm(after), *activation)


class Level(nn.Module):
    def __init__(self, before, after, radius):
        super().__init__()
        self.skipconv = nn.Sequential(nn.Conv1d(before, after, 1))
        self.convs = nn.Sequential(
            normed(nn.Conv2d, nn.BatchNorm2d, 3 + before, after // 2, nn.ReLU()),
            normed(nn.Conv2d, nn.BatchNorm2d, after // 2, after),
        )
        self.radius = radius

    def forward(self, points, x):
        chosen = farthest(points, points.shape[1] // 2)
        centres = rows(points, chosen)
        index = ball(points, centres, self.radius, NEIGHBOURS)
        offset = (rows(points, index) - centres.unsqueeze(2)) / self.radius
        grouped = torch.cat([offset, rows(x.mT, index)], dim=3).permute(0, 3, 1, 2)  # (B, C, S, k)
        own = self.skipconv(rows(x.mT, chosen).mT)
        return centres, F.relu(self.convs(grouped).max(dim=3).values + own)


class Global(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.convs = nn.Sequential(
            normed(nn.Conv2d, nn.BatchNorm2d, 3 + channels, channels, nn.ReLU()),
            normed(nn.Conv2d, nn.BatchNorm2d, channels, channels, nn.ReLU()),
        )

    def forward(self, points, x):
        x = torch.cat([points.mT, x], dim=1).unsqueeze(2)  # (B, 3 + C, 1, N)
        return points, self.convs(x).max(dim=3).values.squeeze(2)


class First(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.convs = nn.Sequential(nn.Sequential(nn.Conv1d(inputs, width, 1)))

    def forward(self, points, x):
        return points, self.convs(x)


class Encoder(nn.Module):
    def __init__(self, width, inputs):
        super().__init__()
        levels = [First(inputs, width)]
        for radius in RADII:
            levels.append(Level(width, 2 * width, radius))
            width *= 2
        self.encoder = nn.ModuleList(nn.Sequential(level) for level in (*levels, Global(width)))

    def forward(self, points, x):
        for (level,) in self.encoder:
            points, x = level(points, x)
        return x


class Head(nn.Module):
    def __init__(self, before, classes):
        super().__init__()
        layers = []
        for after in (512, 256):
            layer = nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()
            layers += [nn.Sequential(*layer), nn.Dropout(0.5)]
            before = after
        self.head = nn.Sequential(*layers, nn.Sequential(nn.Linear(before, classes)))

    def forward(self, x):
        return self.head(x)


class PointNeXt(nn.Module):
    def __init__(self, classes=40, width=32, inputs=3):
        super().__init__()
        self.encoder = Encoder(width, inputs)
        self.prediction = Head(16 * width, classes)
        self.inputs = inputs

    def forward(self, points, visibility=None, category=None):
        x = points
        if self.inputs == 4:
            height = points[..., UP] - points[..., UP].min(dim=1, keepdim=True).values
            x = torch.cat([points, height.unsqueeze(2)], dim=2)
        feature = self.encoder(points, x.mT)
        return {"logits": self.prediction(feature), "global_feature": feature}
