"""CurveNet's classification network as tiangexiang/CurveNet published it, by its keys.

Conventions: k = 20 neighbours and the point itself as the first of 21; the table of
the momentum's weights, softmax over (2, n), is read as if it were stored as (n, 2); a ball keeps
the first 20 points by index; every activation but that of ``conv0`` and ``bn1`` is LeakyReLU 0.2.
Points are (B, N, 3), N at least 256, features (B, C, N), logits (B, K).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from scripts.reference.operations import ball, farthest, nearest, rows

K, CURVES, STEPS, SLOPE = 20, 100, 5, 0.2
# name: channels before and after, ratio of the bottleneck, curves, points, radius
BLOCKS = {
    "cic11": (32, 64, 2, True, 1024, 0.05),
    "cic12": (64, 64, 4, True, 1024, 0.05),
    "cic21": (64, 128, 2, True, 1024, 0.05),
    "cic22": (128, 128, 4, True, 1024, 0.1),
    "cic31": (128, 256, 2, False, 256, 0.1),
    "cic32": (256, 256, 4, False, 256, 0.2),
    "cic41": (256, 512, 2, False, 64, 0.2),
    "cic42": (512, 512, 4, False, 64, 0.4),
}


def leaky(x):
    return F.leaky_relu(x, SLOPE)


def line(before, after, *activation):
    layers = nn.Conv1d(before, after, 1, bias=False), nn.BatchNorm1d(after), *activation
    return nn.Sequential(*layers)


def grid(before, after, *activation):
    layers = nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), *activation
    return nn.Sequential(*layers)


def gathered(x, index):
    """(B, C, N) at (B, S, k) gives (B, C, S, k)."""
    return rows(x.mT, index).permute(0, 3, 1, 2)


class LPFA(nn.Module):
    def __init__(self, channels, initial=False):
        super().__init__()
        if initial:
            self.mlp = nn.Sequential(grid(9, channels))
        else:
            self.xyz2feature = grid(9, channels)
            self.mlp = nn.Sequential(grid(channels, channels))
        self.initial = initial

    def forward(self, points, index, x=None):
        """``points`` (B, N, 3), ``index`` of neighbours (B, N, k), ``x`` (B, C, N)."""
        others = rows(points, index)
        own = points.unsqueeze(2).expand_as(others)
        edges = torch.cat([own, others, others - own], dim=3).permute(0, 3, 1, 2)  # (B, 9, N, k)
        if self.initial:
            return leaky(self.mlp(edges)).max(dim=3).values
        step = gathered(x, index) - x.unsqueeze(3)
        return leaky(self.mlp(leaky(step + self.xyz2feature(edges)))).mean(dim=3)


class Walk(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.agent_mlp = grid(2 * channels, 1)
        self.momentum_mlp = line(2 * channels, 2)

    def forward(self, x, ahead, start):
        """``x`` (B, C, N), ``ahead`` (B, N, k), ``start`` (B, n) to curves (B, C, n, l)."""
        here, visited = start, []
        current = descriptor = gathered(x, start.unsqueeze(2)).squeeze(3)  # (B, C, n)
        for step in range(STEPS):
            if step:
                table = self.momentum_mlp(torch.cat([current, descriptor], dim=1)).softmax(dim=1)
                pairs = table.reshape(len(x), 1, CURVES, 2)  # the release's reading of (B, 2, n)
                descriptor = (torch.stack([current, descriptor], dim=3) * pairs).sum(dim=3)
            candidates = rows(ahead, here)  # (B, n, k)
            features = gathered(x, candidates)  # (B, C, n, k)
            context = descriptor.unsqueeze(3).expand_as(features)
            logits = self.agent_mlp(torch.cat([features, context], dim=1)).squeeze(1)
            if step:
                come = (current - descriptor).unsqueeze(3)
                go = features - current.unsqueeze(3)
                size = (come.norm(dim=1) * go.norm(dim=1)).clamp(min=1e-8)
                logits = logits * (1 + (come * go).sum(dim=1) / size).clamp(0, 1).detach()
            soft = logits.softmax(dim=2)
            chosen, here = self.pick(soft, candidates)
            hard = torch.zeros_like(soft).scatter(2, chosen, 1.0)
            taken = hard - soft.detach() + soft  # its value is hard, its gradient that of soft
            current = (features * taken.unsqueeze(1)).sum(dim=3)
            visited.append(current)
        return torch.stack(visited, dim=3)

    @staticmethod
    def pick(soft, candidates):
        """Of (B, n, k) candidates the chosen one: its place (B, n, 1) and its point (B, n)."""
        chosen = soft.argmax(dim=2, keepdim=True)
        return chosen, candidates.gather(2, chosen).squeeze(2)


class Grouping(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.att = nn.Conv1d(channels, 1, 1, bias=False)
        self.walk = Walk(channels)

    def forward(self, x, ahead):
        score = torch.sigmoid(self.att(x))
        start = score.squeeze(1).topk(CURVES, dim=1, sorted=False).indices
        return self.walk(x * score, ahead, start)


class Aggregation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        middle = channels // 2
        self.conva = nn.Conv1d(channels, middle, 1, bias=False)
        self.convb = nn.Conv1d(channels, middle, 1, bias=False)
        self.convc = nn.Conv1d(channels, middle, 1, bias=False)
        self.convn = nn.Conv1d(middle, middle, 1, bias=False)
        self.convl = nn.Conv1d(middle, middle, 1, bias=False)
        self.convd = line(channels, channels)
        self.line_conv_att = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, x, curves):
        weight = self.line_conv_att(curves)  # (B, 1, n, l)
        curve = self.conva((curves * weight.softmax(dim=3)).sum(dim=3))  # (B, C / 2, n)
        step = self.convb((curves * weight.softmax(dim=2)).sum(dim=2))  # (B, C / 2, l)
        query = self.convc(x).mT
        of_curves = (query @ curve).softmax(dim=2) @ self.convn(curve).mT
        of_steps = (query @ step).softmax(dim=2) @ self.convl(step).mT
        return leaky(x + self.convd(torch.cat([of_curves, of_steps], dim=2).mT))


class CIC(nn.Module):
    def __init__(self, before, after, ratio, curves, count, radius):
        super().__init__()
        inner = before // ratio
        if curves:
            self.curveaggregation, self.curvegrouping = Aggregation(inner), Grouping(inner)
        self.conv1, self.conv2 = line(before, inner), line(inner, after)
        if before != after:
            self.shortcut = line(before, after)
        self.lpfa = LPFA(inner)
        self.count, self.radius = count, radius

    def forward(self, points, x):
        if points.shape[1] > self.count:
            centres = rows(points, farthest(points, self.count))
            x = gathered(x, ball(points, centres, self.radius, K)).max(dim=3).values
            points = centres
        inner = leaky(self.conv1(x))
        index = nearest(points, points, K + 1)  # the point itself first
        if hasattr(self, "curvegrouping"):
            inner = self.curveaggregation(inner, self.curvegrouping(inner, index[..., 1:]))
        inner = self.conv2(self.lpfa(points, index[..., :K], inner))
        short = self.shortcut(x) if hasattr(self, "shortcut") else x
        return points, leaky(inner + short)


class CurveNet(nn.Module):
    def __init__(self, classes=40):
        super().__init__()
        self.lpfa = LPFA(32, initial=True)
        for name, sizes in BLOCKS.items():
            setattr(self, name, CIC(*sizes))
        self.conv0 = line(512, 1024)
        self.conv1, self.bn1 = nn.Linear(2048, 512, bias=False), nn.BatchNorm1d(512)
        self.conv2, self.dp1 = nn.Linear(512, classes), nn.Dropout(0.5)

    def forward(self, points, visibility=None, category=None):
        x = self.lpfa(points, nearest(points, points, K))
        for name in BLOCKS:
            points, x = getattr(self, name)(points, x)
        x = F.relu(self.conv0(x))
        x = torch.cat([x.max(dim=2).values, x.mean(dim=2)], dim=1)
        return {"logits": self.conv2(self.dp1(F.relu(self.bn1(self.conv1(x)))))}
