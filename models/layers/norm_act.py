"""Batch normalisation and its activation as one function, and their maximum over groups of rows.

The plain form writes the normalised rows, the activated rows and, in backward, the gradient of each
of them. With the statistics at hand, z = s x + t is affine in each channel, so that

    y = act(s x + t),        max_r act(s x_r + t) = act(s x_m + t),

where m is the row with the largest x, or the smallest one where s is negative. So one pass gives
the statistics, and for the maximum the same pass gives the rows m: nothing is written but what the
next layer reads. Backward needs the gradient g of z and two sums over it,

    dx = s g - s (mean g) - s rstd^2 (mean g (x - mean x)) (x - mean x),

where g is zero but for the rows m if a maximum follows. These are exact rearrangements of the plain
form, which serves evaluation, CUDA and everything else that is not trained on a CPU with numba.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.choice import NUMBA_TYPES, kernels_name
from models.layers.pooling import max_over_rows


def linear_before_norm(
    linear: nn.Linear, norm: nn.BatchNorm1d, x: Tensor
) -> tuple[Tensor, Tensor | None]:
    """``linear`` of ``x`` (..., C') and the bias that it still lacks, for the functions below.

    A bias moves the mean that the normalisation takes away again, so the fast form leaves it out.
    """
    if linear.bias is not None and _is_fast(norm, x):
        return F.linear(x, linear.weight), linear.bias
    return linear(x), None


def norm_act(
    norm: nn.BatchNorm1d, rows: Tensor, slope: float = 0.0, bias: Tensor | None = None
) -> Tensor:
    """LeakyReLU of ``slope`` (0: ReLU, 1: none) of the normalised ``rows`` (R, C).

    ``bias`` (C,) is to be added to the rows first.
    """
    if _is_fast(norm, rows):
        from models.layers.fast_norm import NormAct  # where it is used: numba takes a second

        return NormAct.apply(rows, bias, norm.weight, norm.bias, norm, slope)
    rows = rows if bias is None else rows + bias.to(rows.dtype)
    rows = norm(rows)
    if slope == 1:
        return rows
    return F.leaky_relu(rows, slope, inplace=True) if slope else F.relu(rows, inplace=True)


def norm_act_max(
    norm: nn.BatchNorm1d, groups: Tensor, slope: float = 0.0, bias: Tensor | None = None
) -> Tensor:
    """The channel-wise maximum of :func:`norm_act` over the rows of each group.

    ``groups`` (..., k, C), statistics over all rows of all groups; returns (..., C). The gradient
    of a maximum goes to the first row that attains it.
    """
    if _is_fast(norm, groups):
        from models.layers.fast_norm import NormActMax

        flat = groups.reshape(-1, *groups.shape[-2:])
        pooled = NormActMax.apply(flat, bias, norm.weight, norm.bias, norm, slope)
        return pooled.view(*groups.shape[:-2], -1)
    rows = norm_act(norm, groups.reshape(-1, groups.shape[-1]), slope, bias)
    return max_over_rows(rows.view(groups.shape))


def _is_fast(norm: nn.Module, x: Tensor) -> bool:
    return (
        type(norm) is nn.BatchNorm1d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and x.device.type == "cpu"
        and x.dtype in NUMBA_TYPES
        and norm.weight.dtype is torch.float32
        and x.numel() > x.shape[-1]  # of one row PyTorch says what is wrong
        and not torch.compiler.is_compiling()
        and kernels_name(x.device) == "numba"
    )
