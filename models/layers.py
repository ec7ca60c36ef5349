"""Layers that all encoders share, on channels-last rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


def max_over_rows(x: Tensor) -> Tensor:
    """Channel-wise maximum of (..., N, C) over N, to (..., C): ``x.max(dim=-2).values``, faster.

    The gradient of each maximum goes to one row, the first that attains it. To track that row makes
    ``max`` on a CPU up to ten times slower than a maximum alone, so finding it is left to backward,
    which compares all rows with the maximum in one pass.
    """
    return _MaxOverRows.apply(x)


class _MaxOverRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        highest = x.amax(dim=-2)
        ctx.save_for_backward(x, highest)
        return highest

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        x, highest = ctx.saved_tensors
        count = x.shape[-2]
        # the first of the rows that attain it has the largest of the numbers N, N - 1, ..., 1
        dtype = torch.uint8 if count < 2**8 else torch.int16 if count < 2**15 else torch.int32
        from_last = torch.arange(count, 0, -1, device=x.device).to(dtype).unsqueeze(1)  # (N, 1)
        attains = (x == highest.unsqueeze(-2)).view(torch.uint8)
        row = count - (attains * from_last).amax(dim=-2, keepdim=True).long()  # (..., 1, C)
        row = row.clamp_(max=count - 1)  # no row equals a maximum that is not a number
        return torch.zeros_like(x).scatter_(-2, row, gradient.unsqueeze(-2))
