"""Classification heads: the cloud feature (B, D) to logits (B, K)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class PointMCDHead(nn.Module):
    """Shape code, then classes: the head of PointMCD's students (Zhang et al., TMM 2023).

    Linear D -> 512 without bias, batch normalisation, ReLU; Linear 512 -> K without bias. The code
    has the size and the form of the teacher's. There is no dropout.
    """

    def __init__(self, global_channels: int, num_classes: int, code_size: int = 512):
        super().__init__()
        self.linear = nn.Linear(global_channels, code_size, bias=False)
        self.norm = nn.BatchNorm1d(code_size)
        self.classifier = nn.Linear(code_size, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to logits (B, K)."""
        return self.classifier(F.relu(self.norm(self.linear(x))))


class Hidden(NamedTuple):
    """One hidden layer: Linear, batch normalisation, LeakyReLU of ``slope``, dropout."""

    width: int
    dropout: float = 0.0
    bias: bool = True
    slope: float = 0.0  # 0: a plain ReLU


class PublishedHead(nn.Module):
    """The classifier of an encoder's own paper: the hidden layers, then a Linear with bias."""

    def __init__(self, global_channels: int, num_classes: int, hidden: Sequence[Hidden]):
        super().__init__()
        self.hidden = nn.ModuleList()
        width = global_channels
        for layer in hidden:
            self.hidden.append(
                nn.Sequential(
                    nn.Linear(width, layer.width, layer.bias),
                    nn.BatchNorm1d(layer.width),
                    nn.LeakyReLU(layer.slope),
                    nn.Dropout(layer.dropout),
                )
            )
            width = layer.width
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to logits (B, K)."""
        for layer in self.hidden:
            x = layer(x)
        return self.classifier(x)
