"""The four students of the PointMCD release (keeganhk/PointMCD), by their keys.

Conventions: a 1x1 convolution has no bias where a normalisation follows, except in PointNet's
encoder; PointNet multiplies row vectors by its transforms, to which the identity is added when they
are used; an edge is [x_i, x_j - x_i] and a point is one of its own neighbours; a view's feature is
the maximum over all points of embedding times visibility. Points are (B, N, 3), visibility
(B, N, V) of 0 and 1; logits are (B, K) or, of parts, (B, N, K), view codes (B, V, 512).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from scripts.reference.operations import nearest, project, rows

SLOPE = 0.2


def leaky(x):
    return F.leaky_relu(x, SLOPE)


class Conv(nn.Module):
    """1x1 convolution of (B, C, N, 1 or k), normalisation, activation."""

    def __init__(self, before, after, activate=F.relu, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 1, bias=False)
        if norm:
            self.bn = nn.BatchNorm2d(after)
        self.activate = activate

    def forward(self, x):
        x = self.conv(x)
        return self.activate(self.bn(x)) if hasattr(self, "bn") else x


class Dense(nn.Module):
    """Linear, normalisation, activation of (B, C)."""

    def __init__(self, before, after, activate=F.relu):
        super().__init__()
        self.linear = nn.Linear(before, after, bias=False)
        self.bn = nn.BatchNorm1d(after)
        self.activate = activate

    def forward(self, x):
        return self.activate(self.bn(self.linear(x)))


class Transform(nn.Module):
    """(B, C, N) to a C x C matrix for each cloud."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(channels, 64, 1), nn.BatchNorm1d(64)
        self.conv2, self.bn2 = nn.Conv1d(64, 64, 1), nn.BatchNorm1d(64)
        self.conv3, self.bn3 = nn.Conv1d(64, 256, 1), nn.BatchNorm1d(256)
        self.fc1, self.bn4 = nn.Linear(256, 64), nn.BatchNorm1d(64)
        self.fc2, self.bn5 = nn.Linear(64, 64), nn.BatchNorm1d(64)
        self.fc3 = nn.Linear(64, channels**2)

    def forward(self, x):
        channels = x.shape[1]
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x))).max(dim=2).values
        x = F.relu(self.bn4(self.fc1(x)))
        x = F.relu(self.bn5(self.fc2(x)))
        return self.fc3(x).view(-1, channels, channels) + torch.eye(channels).to(x)


class Trunk(nn.Module):
    """PointNet: (B, N, 3) to (B, N, 1024), with a ReLU at the end."""

    def __init__(self):
        super().__init__()
        self.stn, self.fstn = Transform(3), Transform(64)
        self.conv1, self.bn1 = nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64)
        self.conv2, self.bn2 = nn.Conv1d(64, 128, 1), nn.BatchNorm1d(128)
        self.conv3, self.bn3 = nn.Conv1d(128, 1024, 1), nn.BatchNorm1d(1024)

    def forward(self, points):
        x = (points @ self.stn(points.mT)).mT
        x = F.relu(self.bn1(self.conv1(x)))
        x = (x.mT @ self.fstn(x)).mT
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x))).mT


class Wrapped(nn.Module):
    """The release holds PointNet's trunk in a module of its own: ``encoder.encoder``."""

    def __init__(self):
        super().__init__()
        self.encoder = Trunk()

    def forward(self, points):
        return self.encoder(points)


class EdgeConv(nn.Module):
    """One or two layers on every edge, then the maximum over the neighbours."""

    def __init__(self, before, after, k, layers=1):
        super().__init__()
        first = Conv(2 * before, after, leaky)
        self.smlp = first if layers == 1 else nn.Sequential(first, Conv(after, after, leaky))
        self.k = k

    def forward(self, x):
        """(B, N, C) to (B, N, C')."""
        others = rows(x, nearest(x, x, self.k))
        own = x.unsqueeze(2).repeat(1, 1, self.k, 1)
        edges = torch.cat([own, others - own], dim=3).permute(0, 3, 1, 2)  # (B, 2 C, N, k)
        return self.smlp(edges.contiguous()).max(dim=3).values.mT


def view_codes(alignment, embeddings, visibility):
    """The published projection: (B, N, C) and (B, N, V) of 0 and 1 to (B, V, 512)."""
    pooled = project(embeddings, visibility)
    return alignment(pooled.flatten(0, 1)).view(*pooled.shape[:2], -1)


def per_point(layer, x):
    """A :class:`Conv` on (B, N, C)."""
    return layer(x.mT.unsqueeze(3)).squeeze(3).mT


class ClsDistiller(nn.Module):
    """The heads that both classification students have."""

    def __init__(self, classes):
        super().__init__()
        self.cdw_alignment = Dense(1024, 512)
        self.mv_cdw_alignment = Dense(1024, 512)
        self.classifier = nn.Linear(512, classes, bias=False)

    def forward(self, points, visibility=None, category=None):
        embeddings = self.embed(points)
        outputs = {
            "logits": self.classifier(self.cdw_alignment(embeddings.max(dim=1).values)),
        }
        if visibility is not None:
            outputs["view_codes"] = view_codes(self.mv_cdw_alignment, embeddings, visibility)
        return outputs


class PointNetCls(ClsDistiller):
    def __init__(self, classes=40):
        super().__init__(classes)
        self.encoder = Wrapped()

    def embed(self, points):
        return self.encoder(points)


class DGCNNCls(ClsDistiller):
    def __init__(self, classes=40):
        super().__init__(classes)
        self.edge_conv_1, self.edge_conv_2 = EdgeConv(3, 64, 20), EdgeConv(64, 64, 20)
        self.edge_conv_3, self.edge_conv_4 = EdgeConv(64, 128, 20), EdgeConv(128, 256, 20)
        self.ms_fusion = Conv(512, 1024)

    def embed(self, points):
        one = self.edge_conv_1(points)
        two = self.edge_conv_2(one)
        three = self.edge_conv_3(two)
        four = self.edge_conv_4(three)
        return per_point(self.ms_fusion, torch.cat([one, two, three, four], dim=2))


class PointNetSeg(nn.Module):
    def __init__(self, parts=50, categories=16):
        super().__init__()
        self.encoder = Wrapped()
        self.dec_mlp_1 = Conv(2048 + categories, 512)
        self.dec_mlp_2, self.dec_mlp_3 = Conv(512, 256), Conv(256, 128)
        self.dec_mlp_4 = Conv(128, parts, norm=False)
        self.mv_cdw_alignment = Dense(1024, 512)
        self.categories = categories

    def forward(self, points, visibility, category):
        embeddings = self.encoder(points)
        pooled = embeddings.max(dim=1, keepdim=True).values.expand_as(embeddings)
        named = F.one_hot(category, self.categories).to(points.dtype).unsqueeze(1)
        named = named.expand(-1, points.shape[1], -1)
        x = torch.cat([embeddings, pooled, named], dim=2)
        for layer in (self.dec_mlp_1, self.dec_mlp_2, self.dec_mlp_3, self.dec_mlp_4):
            x = per_point(layer, x)
        codes = view_codes(self.mv_cdw_alignment, embeddings, visibility)
        return {"logits": x, "view_codes": codes}


class SegTrunk(nn.Module):
    """DGCNN's part-segmentation network: embeddings and logits of (B, N, 3)."""

    def __init__(self, parts, categories):
        super().__init__()
        self.econv_1, self.econv_2 = EdgeConv(3, 64, 40, 2), EdgeConv(64, 64, 40, 2)
        self.econv_3 = EdgeConv(64, 64, 40)
        self.pw_embedding = Conv(192, 1024)
        self.class_lifting = Dense(categories, 64, leaky)
        self.seg_conv_1, self.seg_conv_2 = Conv(1280, 256, leaky), Conv(256, 256, leaky)
        self.seg_conv_3 = Conv(256, 128, leaky)
        self.seg_conv_4 = Conv(128, parts, norm=False)
        self.categories = categories

    def forward(self, points, category):
        one = self.econv_1(points)
        two = self.econv_2(one)
        three = self.econv_3(two)
        embeddings = per_point(self.pw_embedding, torch.cat([one, two, three], dim=2))
        named = self.class_lifting(F.one_hot(category, self.categories).to(points.dtype))
        whole = torch.cat([embeddings.max(dim=1).values, named], dim=1).unsqueeze(1)
        x = torch.cat([whole.expand(-1, points.shape[1], -1), one, two, three], dim=2)
        for layer in (self.seg_conv_1, self.seg_conv_2, self.seg_conv_3, self.seg_conv_4):
            x = per_point(layer, x)  # dropout after the first two does nothing in evaluation
        return embeddings, x


class DGCNNSeg(nn.Module):
    def __init__(self, parts=50, categories=16):
        super().__init__()
        self.encoder = SegTrunk(parts, categories)
        self.mv_cdw_alignment = Dense(1024, 512)

    def forward(self, points, visibility, category):
        embeddings, logits = self.encoder(points, category)
        codes = view_codes(self.mv_cdw_alignment, embeddings, visibility)
        return {"logits": logits, "view_codes": codes}
