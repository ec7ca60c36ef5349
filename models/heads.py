"""Classification heads: the cloud feature (B, D) to a code (B, W), that to logits (B, K)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """``code`` makes what ``classifier``, its last layer, reads: ``code_channels`` (W) of it.
    ``code_describes``: whether the code takes the place of the cloud feature for everybody else.
    """

    classifier: nn.Linear
    code_describes = False

    @property
    def code_channels(self) -> int:
        return self.classifier.in_features

    def code(self, x: Tensor) -> Tensor:
        """(B, D) to (B, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to logits (B, K)."""
        return self.classifier(self.code(x))


class PointMCDHead(Head):
    """Shape code, then classes: the head of PointMCD's students (Zhang et al., TMM 2023).

    Linear D -> 512 without bias, batch normalisation, ReLU; Linear 512 -> K without bias. The code
    has the size and the form of the teacher's. There is no dropout.
    """

    bias = False  # of the classifier

    def __init__(self, global_channels: int, num_classes: int, code_size: int = 512):
        super().__init__()
        self.linear = nn.Linear(global_channels, code_size, bias=False)
        self.norm = nn.BatchNorm1d(code_size)
        self.classifier = nn.Linear(code_size, num_classes, bias=self.bias)

    def code(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(x)))


class PointCMTHead(PointMCDHead):
    """The same with a bias in the classifier: the head of PointCMT's student (Yan et al., NeurIPS
    2022), whose code is the feature that it is compared by."""

    bias = True
    code_describes = True


class Hidden(NamedTuple):
    """One hidden layer: Linear, batch normalisation, LeakyReLU of ``slope``, dropout."""

    width: int
    dropout: float = 0.0
    bias: bool = True
    slope: float = 0.0  # 0: a plain ReLU


class PublishedHead(Head):
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

    def code(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x)
        return x
