"""The attention VGG of PointMCD (Zhang et al., TMM 2023), backbone of its teachers for part
segmentation and for learning without labels.

The convolutions are those of torchvision's vgg11_bn, cut into four stages without the last pooling.
The first two are followed by spatial attention, the last two by channel attention, in the manner of
CBAM (Woo et al., ECCV 2018) with a residual: out = x + w(x) * x.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.images.backbones import IMAGENET_COLOURS, load_weights
from utils.errors import ConfigError

# Channels of the convolutions of vgg11_bn; 0 is a pooling. Its fifth one, layer 28, is dropped.
VGG11 = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512)
STAGES = ((0, 7), (7, 14), (14, 21), (21, 28))  # layers
STAGE_CHANNELS = (128, 256, 512, 512)
SMALLEST_SIDE = 16  # pixels: the fourth stage is a sixteenth of the image


class SpatialAttention(nn.Module):
    """One weight per pixel, from the mean and the maximum over its channels, in this order."""

    def __init__(self, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """``maps``: (R, C, H, W), and so is what comes back."""
        summary = torch.cat(
            [maps.mean(dim=1, keepdim=True), maps.amax(dim=1, keepdim=True)], dim=1
        )  # (R, 2, H, W)
        return maps + maps * self.conv(summary).sigmoid()


class ChannelAttention(nn.Module):
    """One weight per channel: the mean and the maximum over the image go through the same
    bottleneck of a ``ratio``-th of the channels and are added."""

    def __init__(self, channels: int, ratio: int = 8):
        super().__init__()
        self.bottleneck = nn.Sequential(
            nn.Linear(channels, channels // ratio, bias=False),
            nn.ReLU(),
            nn.Linear(channels // ratio, channels, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """``maps``: (R, C, H, W), and so is what comes back."""
        summed = self.bottleneck(maps.mean(dim=(2, 3))) + self.bottleneck(maps.amax(dim=(2, 3)))
        return maps + maps * summed.sigmoid()[:, :, None, None]


def vgg11_layers() -> nn.Sequential:
    """Layers 0 to 27 of torchvision's vgg11_bn, initialised alike.

    They are made here because torchvision makes the head too, seven times as many weights.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for channels in VGG11:
        if channels == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        convolution = nn.Conv2d(inputs, channels, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        inputs = channels
    return nn.Sequential(*layers)


class AttentionVGG(nn.Module):
    """Images (R, 3, H, W) -> descriptors (R, 512), the mean of the fourth stage over its pixels.

    Args:
        weights: of torchvision's vgg11_bn, see :func:`models.images.backbones.load_weights`; the
            attentions are always random at first.
    """

    channels = STAGE_CHANNELS[-1]
    colours = IMAGENET_COLOURS

    def __init__(self, weights: str = "none"):
        super().__init__()
        layers = vgg11_layers()
        load_weights(nn.ModuleDict({"features": layers}), "vgg11_bn", weights)
        attentions = (
            SpatialAttention(7),
            SpatialAttention(5),
            ChannelAttention(STAGE_CHANNELS[2]),
            ChannelAttention(STAGE_CHANNELS[3]),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(layers[begin:end], attention)
            for (begin, end), attention in zip(STAGES, attentions, strict=True)
        )
        self.to(memory_format=torch.channels_last)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The four stages after their attention: 1/2, 1/4, 1/8 and 1/16 of the image's sides.

        Raises:
            ConfigError: images too small for four stages.
        """
        height, width = images.shape[-2:]
        if min(height, width) < SMALLEST_SIDE:
            raise ConfigError(
                f"views of {height} x {width} pixels: this backbone needs {SMALLEST_SIDE} or more "
                "(data.size)"
            )
        maps, found = images.contiguous(memory_format=torch.channels_last), []
        for stage in self.stages:
            maps = stage(maps)
            found.append(maps)
        return found

    def forward(self, images: Tensor) -> Tensor:
        return descriptor(self.maps(images)[-1])


def descriptor(maps: Tensor) -> Tensor:
    """(R, C, H, W) -> (R, C) in float32: global average pooling."""
    return maps.float().mean(dim=(2, 3))
