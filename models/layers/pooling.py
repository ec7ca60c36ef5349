"""Maxima over rows whose gradient goes to one row each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import ops


def max_over_rows(x: Tensor) -> Tensor:
    """Channel-wise maximum of (..., N, C) over N, to (..., C): ``x.max(dim=-2).values``, faster.

    The gradient of each maximum goes to one row, the first that attains it. On a CPU the kernel of
    the projection finds both in one pass, with one view that sees every row. Elsewhere, where a
    compiler may fuse tensor code with the layer before, the row is found in backward.
    """
    if x.device.type != "cpu":
        return _MaxOverRows.apply(x)
    clouds = x.reshape(-1, *x.shape[-2:])
    every = torch.ones(clouds.shape[:2], dtype=torch.int32)
    return ops.visible_max(clouds, every, 1)[0].view(*x.shape[:-2], -1)


class _MaxOverRows(torch.autograd.Function):
    """The row is found in backward, which compares all rows with the maximum in one pass."""

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
