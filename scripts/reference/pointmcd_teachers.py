"""The three image networks of the PointMCD release, by their keys.

Conventions: images are only scaled to [0, 1]; doubling is bilinear with aligned corners; a skip map
comes before the doubled one in a concatenation; an attention's result is w x + x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from scripts.reference.pointmcd_students import Conv, Dense, per_point


class TeacherCls(nn.Module):
    def __init__(self, classes=40):
        super().__init__()
        self.cnn_backbone = torchvision.models.mobilenet_v2(weights=None).features
        self.mv_cdw_embedding = Conv(1280, 512)
        self.cdw_embedding = Dense(512, 512)
        self.classifier = nn.Linear(512, classes, bias=False)

    def forward(self, views, category=None):
        pooled = torch.stack([self.cnn_backbone(shape).mean(dim=(2, 3)) for shape in views])
        codes = per_point(self.mv_cdw_embedding, pooled)  # (B, V, 512)
        code = self.cdw_embedding(codes.amax(dim=1))
        return {
            "view_codes": codes,
            "code": code,
            "view_logits": self.classifier(codes),
            "logits": self.classifier(code),
        }


class Map(nn.Module):
    """k x k convolution that keeps the size, normalisation and ReLU or nothing."""

    def __init__(self, before, after, size=3, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
        if norm:
            self.bn = nn.BatchNorm2d(after)

    def forward(self, x):
        x = self.conv(x)
        return F.relu(self.bn(x)) if hasattr(self, "bn") else x


class Spatial(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.conv = Map(2, 1, size, norm=False)

    def forward(self, x):
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(pooled)) + x


class Bare(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.linear = nn.Linear(before, after, bias=False)

    def forward(self, x):
        return self.linear(x)


class Channel(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc = nn.ModuleList([Bare(channels, channels // 8), Bare(channels // 8, channels)])

    def forward(self, x):
        squeeze, excite = self.fc
        pooled = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))
        weight = torch.sigmoid(sum(excite(F.relu(squeeze(vector))) for vector in pooled))
        return x * weight[:, :, None, None] + x


class Stages(nn.Module):
    """VGG11 in four stages, each with its attention; the fifth pooling is left out."""

    def __init__(self):
        super().__init__()
        vgg = make_layers(cfgs["A"], batch_norm=True)
        attentions = Spatial(7), Spatial(5), Channel(512), Channel(512)
        for place, attention in enumerate(attentions):
            stage = nn.Sequential(*vgg[7 * place : 7 * place + 7])
            setattr(self, f"conv_{place + 1}", nn.Sequential(stage, attention))

    def stages(self, images):
        one = self.conv_1(images)
        two = self.conv_2(one)
        three = self.conv_3(two)
        return one, two, three, self.conv_4(three)


def double(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class BackbonePretrainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn_backbone = Stages()
        self.lifting = Dense(512, 7 * 7 * 256)
        self.deconv_1, self.deconv_2 = Map(256, 256), Map(256, 128)
        self.deconv_3, self.deconv_4 = Map(128, 64), Map(64, 32)
        self.output = Map(32, 3, norm=False)

    def forward(self, views, category=None):
        codes = self.cnn_backbone.stages(views.flatten(0, 1))[3].mean(dim=(2, 3))
        x = self.lifting(codes).view(-1, 256, 7, 7)
        for layer in (self.deconv_1, self.deconv_2, self.deconv_3, self.deconv_4, self.output):
            x = layer(double(x))
        codes = codes.view(*views.shape[:2], -1)
        images = x.view(*views.shape[:2], *x.shape[1:])
        return {"view_codes": codes, "code": codes.amax(dim=1), "images": images}


class TeacherSeg(Stages):
    def __init__(self, parts=50, categories=16):
        super().__init__()
        self.lift, self.fuse = Dense(categories, 64), Dense(512 + 64, 128)
        self.dec_1 = Map(512 + 128, 512, size=1)
        self.dec_2, self.dec_3 = Map(512 + 512, 512), Map(512 + 256, 256)
        self.dec_4, self.dec_5 = Map(256 + 128, 128), Map(128, 64)
        self.output = Map(64, parts + 1, norm=False)
        self.categories = categories

    def forward(self, views, category):
        one, two, three, four = self.stages(views.flatten(0, 1))
        codes = four.mean(dim=(2, 3))
        named = F.one_hot(category.repeat_interleave(views.shape[1]), self.categories).float()
        whole = self.fuse(torch.cat([codes, self.lift(named)], dim=1))[:, :, None, None]
        x = self.dec_1(torch.cat([four, whole.expand(-1, -1, *four.shape[2:])], dim=1))
        x = self.dec_2(torch.cat([three, double(x)], dim=1))
        x = self.dec_3(torch.cat([two, double(x)], dim=1))
        x = self.dec_4(torch.cat([one, double(x)], dim=1))
        x = self.output(self.dec_5(double(x)))
        logits = x.view(*views.shape[:2], *x.shape[1:])
        codes = codes.view(*views.shape[:2], -1)
        return {
            "view_codes": codes,
            "code": codes.amax(dim=1),
            "view_logits": logits,
            "logits": logits,
        }
