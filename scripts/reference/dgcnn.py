"""DGCNN's classification network as antao97/dgcnn.pytorch published it, by its keys.

Conventions: an edge is [x_j - x_i, x_i] and a point is one of its own 20 neighbours; every
activation is LeakyReLU 0.2; the normalisations of the convolutions stand in the file twice, as
``bnN`` and ``convN.1``. Points are (B, N, 3), features (B, C, N), logits (B, K).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from scripts.reference.operations import nearest, rows

K, SLOPE = 20, 0.2


def leaky(x):
    return F.leaky_relu(x, SLOPE)


def edges(x):
    """(B, C, N) to (B, 2 C, N, k)."""
    x = x.mT
    others = rows(x, nearest(x, x, K))
    own = x.unsqueeze(2).expand_as(others)
    return torch.cat([others - own, own], dim=3).permute(0, 3, 1, 2)


class DGCNN(nn.Module):
    def __init__(self, classes=40):
        super().__init__()
        widths = (3, 64, 64, 128, 256)
        self.bn1, self.bn2, self.bn3, self.bn4 = map(nn.BatchNorm2d, widths[1:])
        self.bn5 = nn.BatchNorm1d(1024)
        norms = self.bn1, self.bn2, self.bn3, self.bn4
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Sequential(nn.Conv2d(2 * before, after, 1, bias=False), norm, nn.LeakyReLU(SLOPE))
            for before, after, norm in zip(widths, widths[1:], norms, strict=False)
        )
        last = nn.Conv1d(512, 1024, 1, bias=False)
        self.conv5 = nn.Sequential(last, self.bn5, nn.LeakyReLU(SLOPE))
        self.linear1, self.bn6 = nn.Linear(2048, 512, bias=False), nn.BatchNorm1d(512)
        self.linear2, self.bn7 = nn.Linear(512, 256), nn.BatchNorm1d(256)
        self.linear3, self.dropout = nn.Linear(256, classes), nn.Dropout(0.5)

    def forward(self, points, visibility=None, category=None):
        x, scales = points.mT, []
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(edges(x)).max(dim=3).values
            scales.append(x)
        x = self.conv5(torch.cat(scales, dim=1))
        feature = torch.cat([x.max(dim=2).values, x.mean(dim=2)], dim=1)
        x = self.dropout(leaky(self.bn6(self.linear1(feature))))
        x = self.dropout(leaky(self.bn7(self.linear2(x))))
        return {"logits": self.linear3(x), "global_feature": feature}
