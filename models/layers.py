"""Layers that all encoders share, on channels-last rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class SharedMLP(nn.Module):
    """Linear, batch normalisation, ReLU for each step of ``widths``, the same map on every row.

    The usual form is a 1x1 convolution on (B, C, N). On (..., C) the same map is a plain matrix
    product, which is faster and needs no transposition before pooling or gathering.

    Args:
        widths: channels in, then channels out of each layer.
        bias: of the linear maps. Before a normalisation it changes nothing, but published weights
            may come with one.
    """

    def __init__(self, widths: Sequence[int], bias: bool = False):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(*step, bias=bias) for step in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) to (..., widths[-1]), not negative."""
        return self.after_first_linear(self.linears[0](x))

    def after_first_linear(self, x: Tensor) -> Tensor:
        """The same for a caller that has applied ``linears[0]``: (..., widths[1]) is expected."""
        rows = x.reshape(-1, x.shape[-1])
        for layer, norm in enumerate(self.norms):
            if layer > 0:
                rows = self.linears[layer](rows)
            rows = F.relu(norm(rows), inplace=True)
        return rows.view(*x.shape[:-1], -1)
