"""The networks of PointCMT's release, by their keys.

Conventions: images are normalised for ImageNet before the network sees them, here in ``forward``;
farthest-point sampling leaves out what is near the origin; a ball's row is [offset, features], and
the last level reads [position, features] of all its points. There are no biases but in classifiers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from scripts.reference.operations import ball, rows
from scripts.reference.pointnet2 import FIRST, SECOND

COLOURS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Teacher(nn.Module):
    """Views (B, V, 3, H, W) in [0, 1]."""

    def __init__(self, classes=40):
        super().__init__()
        resnet = torchvision.models.resnet18(weights=None)
        self.net = nn.Sequential(*list(resnet.children())[:-1])
        self.fc = nn.Sequential(nn.Linear(512, classes))

    def forward(self, views):
        mean, std = (views.new_tensor(values).view(3, 1, 1) for values in COLOURS)
        pooled = torch.stack([self.net((shape - mean) / std).flatten(1) for shape in views])
        code = pooled.max(dim=1).values
        return {"code": code, "logits": self.fc(code)}


class PointGenerator(nn.Module):
    """Codes (B, 512) to (B, 1024, 3)."""

    def __init__(self, points=1024):
        super().__init__()
        self.fc_l = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 3 * points, bias=False))

    def forward(self, codes):
        return self.fc_l(codes).reshape(len(codes), -1, 3)


def farthest(points: Tensor, count: int) -> Tensor:
    """(B, count): points off the origin only, but for point 0, which is the first."""
    chosen = []
    for cloud in points:
        off = [n for n, point in enumerate(cloud) if float((point * point).sum()) > 1e-3]
        to_chosen = torch.full((len(off),), torch.inf, dtype=points.dtype)
        picked = [0]
        while len(picked) < count:
            distance = (cloud[off] - cloud[picked[-1]]).square().sum(dim=1)
            to_chosen = torch.minimum(to_chosen, distance)
            picked.append(off[int(to_chosen.argmax())])
        chosen.append(picked)
    return torch.tensor(chosen)


class Named(nn.Module):
    """``inner`` under the name that it has in the release."""

    def __init__(self, **inner):
        super().__init__()
        for name, module in inner.items():
            setattr(self, name, module)


def shared(widths):
    layers = nn.Sequential()
    for place, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        conv = nn.Conv2d(before, after, 1, bias=False)
        norm = Named(bn=nn.BatchNorm2d(after))
        layers.add_module(f"layer{place}", Named(conv=conv, normlayer=norm))
    return layers


def through(layers, x):
    for layer in layers:
        x = F.relu(layer.normlayer.bn(layer.conv(x)))
    return x


class Level(nn.Module):
    """``centres`` None: all points are one ball."""

    def __init__(self, before, scales, centres=None):
        super().__init__()
        self.mlps = nn.ModuleList(shared([before + 3, *widths]) for _, _, widths in scales)
        self.scales, self.centres = scales, centres

    def forward(self, points, features):
        if self.centres is None:
            x = torch.cat([points, features], dim=2).mT.unsqueeze(2)  # (B, C, 1, N)
            return None, through(self.mlps[0], x).max(dim=3).values.mT
        centres = rows(points, farthest(points, self.centres))
        pooled = []
        for layers, (radius, count, _) in zip(self.mlps, self.scales, strict=True):
            index = ball(points, centres, radius, count)
            x = rows(points, index) - centres.unsqueeze(2)
            if features is not None:
                x = torch.cat([x, rows(features, index)], dim=3)
            pooled.append(through(layers, x.permute(0, 3, 1, 2)).max(dim=3).values.mT)
        return centres, torch.cat(pooled, dim=2)


class Student(nn.Module):
    """Clouds (B, N, 3); of it the release keeps everything below ``model``."""

    def __init__(self, classes=40):
        super().__init__()
        levels = [Level(0, FIRST, 512), Level(320, SECOND, 128)]
        levels.append(Level(640, [(None, None, (256, 512, 1024))]))
        layer = Named(fc=nn.Linear(1024, 512, bias=False), bn=Named(bn=nn.BatchNorm1d(512)))
        self.model = Named(
            SA_modules=nn.ModuleList(levels),
            fc_layer1=nn.Sequential(layer),
            fc_layer2=nn.Sequential(nn.Linear(512, classes)),
        )

    def forward(self, points):
        features = None
        for level in self.model.SA_modules:
            points, features = level(points, features)
        layer = self.model.fc_layer1[0]
        code = F.relu(layer.bn.bn(layer.fc(features.squeeze(1))))
        return {"global_feature": code, "logits": self.model.fc_layer2(code)}
