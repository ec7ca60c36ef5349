"""Normalisation, activation and maximum on a CPU, with gradients.

See :mod:`models.layers.norms` for what they compute.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.kernels import norm_loops
from models.kernels.halves import elements
from models.kernels.threads import in_shares


class _Statistics:
    """Of the rows that a normalisation has seen: what backward needs of them, (C,) float32 each.

    ``z = x scale + shift``, and the gradient of x is made of that of z with the two sums. A bias
    that x lacks is seen by the running mean alone. ``affine`` gives the scale of ``norm``, whose
    running statistics it moves, see :func:`models.layers.norms.norm_as_affine`.
    """

    def __init__(
        self,
        norm: nn.BatchNorm1d,
        affine: Callable,
        bias: Tensor | None,
        pivot: np.ndarray,
        sums: np.ndarray,
        squares: np.ndarray,
        rows: int,
    ):
        mean = sums.sum(axis=0) / rows
        variance = squares.sum(axis=0) / rows - mean**2
        mean += pivot
        moments = (torch.from_numpy(m.astype(np.float32)) for m in (mean, variance))
        self.mean, variance = moments
        with torch.no_grad():
            whole = self.mean if bias is None else self.mean + bias
            self.scale, _ = affine(norm, (whole, variance), rows)
            self.shift = norm.bias - self.mean * self.scale
        self.deviation = torch.rsqrt(variance.clamp_min(0) + norm.eps)  # its inverse
        self.rows = rows
        # zero, not None: optimisers and processes that train together expect one for every weight
        self.no_gradient = None if bias is None else torch.zeros_like(bias)

    def weight_gradients(self, total: Tensor, dot: Tensor) -> tuple[Tensor, Tensor]:
        """Of weight and bias, from the sums over all rows of g and of g (x - mean)."""
        return dot * self.deviation, total

    def rest(self, total: Tensor, dot: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Constant and factor of x in the part of the rows' gradient that all rows share."""
        linear = -self.scale * self.deviation.square() * dot / self.rows
        return (-self.scale * total / self.rows - linear * self.mean).numpy(), linear.numpy()


class NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, lacking, weight, bias, norm, slope, affine):
        rows = rows.contiguous()
        x = elements(rows)
        pivot = rows[0].float().numpy()
        items = -(-len(x) // norm_loops.RUN)
        cost = norm_loops.RUN * x.shape[1]
        sums, squares = np.empty((2, items, x.shape[1]))
        in_shares(norm_loops.moments, items, cost, x, pivot, sums, squares)
        found = _Statistics(norm, affine, lacking, pivot, sums, squares, len(x))
        out = torch.empty_like(rows)
        constants = found.scale.numpy(), found.shift.numpy(), np.float32(slope)
        in_shares(norm_loops.activate, items, cost, x, *constants, elements(out))
        ctx.save_for_backward(rows)
        ctx.found, ctx.constants, ctx.shares = found, constants, (items, cost)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (rows,) = ctx.saved_tensors
        found = ctx.found
        x, g = elements(rows), elements(gradient.contiguous())
        sums, dots = np.empty((2, ctx.shares[0], x.shape[1]))
        arrays = x, g, *ctx.constants
        mean = found.mean.numpy()
        in_shares(norm_loops.activate_sums, *ctx.shares, *arrays, mean, sums, dots)
        total, dot = (torch.from_numpy(s.sum(axis=0).astype(np.float32)) for s in (sums, dots))
        out = torch.empty_like(rows)
        rest = found.rest(total, dot)
        in_shares(norm_loops.activate_backward, *ctx.shares, *arrays, *rest, elements(out))
        return out, found.no_gradient, *found.weight_gradients(total, dot), None, None, None


class NormActMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, groups, lacking, weight, bias, norm, slope, affine):
        groups = groups.contiguous()
        count, size, channels = groups.shape
        pivot = groups[0, 0].float()
        share = max(1, norm_loops.RUN // size)
        items = -(-count // share)
        highest = torch.empty(count, channels)
        who = torch.empty(count, channels, dtype=torch.int32)
        sums, squares = np.empty((2, items, channels))
        arrays = weight.detach().sign().numpy(), pivot.numpy(), highest.numpy(), who.numpy()
        ctx.shares = items, share * size * channels
        x = elements(groups)
        in_shares(norm_loops.pool, *ctx.shares, x, share, *arrays, sums, squares)
        rows = count * size
        found = _Statistics(norm, affine, lacking, pivot.numpy(), sums, squares, rows)
        pooled = torch.addcmul(found.shift, highest, found.scale)
        pooled = F.leaky_relu(pooled, slope, inplace=True)
        ctx.save_for_backward(groups, highest, who, pooled)
        ctx.found, ctx.share, ctx.slope = found, share, slope
        return pooled.to(groups.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        groups, highest, who, pooled = ctx.saved_tensors
        found = ctx.found
        g = gradient.float()
        g = torch.where(pooled > 0, g, g * ctx.slope)
        total, dot = g.sum(dim=0), (g * (highest - found.mean)).sum(dim=0)
        out = torch.empty_like(groups)
        arrays = who.numpy(), (g * found.scale).numpy(), *found.rest(total, dot), elements(out)
        in_shares(norm_loops.pool_backward, *ctx.shares, elements(groups), ctx.share, *arrays)
        return out, found.no_gradient, *found.weight_gradients(total, dot), None, None, None
