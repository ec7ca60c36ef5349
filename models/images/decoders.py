"""From codes back to images: the decoders of PointMCD's attention-VGG teachers (TMM 2023).

Both enlarge bilinearly, corners on corners, and convolve. The published networks double the side
at every step, for views of 224 pixels; here each step enlarges to the size of the stage of the
backbone that it answers, which is the same at 224 and works for any view that the backbone takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.images.attention_vgg import STAGE_CHANNELS
from models.layers.mlp import one_hot

SEED_SIDE, SEED_CHANNELS = 7, 256
BACKGROUND = 1  # further channel of label images


def _convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)
    )


def _enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


class ImageDecoder(nn.Module):
    """Descriptors (R, 512) -> colour images (R, 3, H, W) near [0, 1], without a last activation."""

    def __init__(self):
        super().__init__()
        self.lifting = _linear(STAGE_CHANNELS[-1], SEED_CHANNELS * SEED_SIDE**2)
        widths = (SEED_CHANNELS, 256, 128, 64, 32)
        self.steps = nn.ModuleList(
            _convolution(inputs, outputs)
            for inputs, outputs in zip(widths[:-1], widths[1:], strict=True)
        )
        self.output = nn.Conv2d(widths[-1], 3, 3, padding=1, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, codes: Tensor, size: Sequence[int]) -> Tensor:
        """``size``: height and width of the images, 16 or more."""
        maps = self.lifting(codes).view(-1, SEED_CHANNELS, SEED_SIDE, SEED_SIDE)
        maps = maps.contiguous(memory_format=torch.channels_last)
        for halvings, step in zip((4, 3, 2, 1), self.steps, strict=True):
            maps = step(_enlarge(maps, [side >> halvings for side in size]))
        return self.output(_enlarge(maps, size))


class PartDecoder(nn.Module):
    """The stages of the backbone and the shape's category -> part logits of every pixel.

    Args:
        num_parts: K, over all categories; the output has one more channel, the background.
        num_categories: length of the one-hot category vector.
    """

    def __init__(self, num_parts: int, num_categories: int):
        super().__init__()
        first, second, third, fourth = STAGE_CHANNELS
        self.num_categories = num_categories
        self.lift = _linear(num_categories, 64)
        self.fuse = _linear(fourth + 64, 128)
        self.steps = nn.ModuleList(
            [
                _convolution(fourth + 128, 512, kernel=1),
                _convolution(third + 512, 512),
                _convolution(second + 512, 256),
                _convolution(first + 256, 128),
                _convolution(128, 64),
            ]
        )
        self.output = nn.Conv2d(64, num_parts + BACKGROUND, 3, padding=1, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, stages: Sequence[Tensor], codes: Tensor, category: Tensor, size: Sequence[int]
    ) -> Tensor:
        """Logits (R, K + 1, H, W).

        Args:
            stages: the four of :meth:`AttentionVGG.maps`. codes: (R, 512), mean of the last.
            category: (R,) int64. size: height and width of the images.
        """
        known = one_hot(category, self.num_categories, codes)
        fused = self.fuse(torch.cat([codes, self.lift(known)], dim=1))  # (R, 128)
        spread = fused[:, :, None, None].expand(-1, -1, *stages[3].shape[-2:])
        maps = self.steps[0](torch.cat([stages[3], spread.to(stages[3].dtype)], dim=1))
        for step, stage in zip(self.steps[1:4], (stages[2], stages[1], stages[0]), strict=True):
            enlarged = _enlarge(maps, stage.shape[-2:]).to(stage.dtype)
            maps = step(torch.cat([stage, enlarged], dim=1))
        return self.output(self.steps[4](_enlarge(maps, size)))
