"""Batch normalisation: with its activation as one function, with their maximum over groups of rows,
from given moments, and over the batches of all processes together.

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
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.kernels.choice import NUMBA_TYPES, kernels_name
from models.layers.pointops import max_over_rows
from utils.distributed import rank, world_size


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
        from models.kernels.cpu_norm import NormAct  # where it is used: numba takes a second

        return NormAct.apply(rows, bias, norm.weight, norm.bias, norm, slope, norm_as_affine)
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
        from models.kernels.cpu_norm import NormActMax

        flat = groups.reshape(-1, *groups.shape[-2:])
        weights = norm.weight, norm.bias, norm
        pooled = NormActMax.apply(flat, bias, *weights, slope, norm_as_affine)
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


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics are those of all processes' rows.

    It takes the place of ``nn.BatchNorm1d`` and ``nn.BatchNorm2d``, with their parameter names, and
    expects as many rows in every process. A process sends the mean and the variance of its own rows
    and joins what all of them sent: nothing is subtracted that is large beside the variance.

    A normalisation of timm has dropout and activation as its children: they are applied behind it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) or (B, C, ...) to the same, of the type of ``x``."""
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        moments = None
        if self.training:
            others = [axis for axis in range(x.dim()) if axis != 1]
            variance, mean = torch.var_mean(rows, others, correction=0)
            moments = mean, variance
        scale, shift = norm_as_affine(self, moments, x.numel() // x.shape[1])
        channels = (-1, *[1] * (x.dim() - 2))
        x = torch.addcmul(shift.view(channels), rows, scale.view(channels)).to(x.dtype)
        for child in self.children():
            x = child(x)
        return x


def synchronise_norms(module: nn.Module) -> None:
    """Put a :class:`GlobalBatchNorm` in the place of every batch normalisation below ``module``.

    Parameters and buffers stay the same tensors under the same names. In a single process nothing
    is changed.
    """
    if world_size() == 1:
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(parent, name, _with_its_tensors(child))


def _with_its_tensors(norm: _BatchNorm) -> GlobalBatchNorm:
    made = GlobalBatchNorm(norm.num_features, norm.eps, norm.momentum)
    made._parameters, made._buffers = norm._parameters, norm._buffers
    made._modules = norm._modules
    return made.train(norm.training)


def norm_as_affine(
    norm: _BatchNorm, moments: tuple[Tensor, Tensor] | None, rows: int
) -> tuple[Tensor, Tensor]:
    """Scale and shift, each (C,), that batch normalisation applies to its rows.

    In training mode these come from ``moments``, the mean and biased variance of the ``rows`` rows
    of this process, which need not have been built, and the running statistics move as ``norm``
    itself would move them. In evaluation mode they come from the running statistics and ``moments``
    is not read.
    """
    if norm.training:
        mean, variance = moments
        variance = variance.clamp_min(0)  # rounding may take that of equal rows below zero
        if isinstance(norm, GlobalBatchNorm):
            mean, variance = global_moments(mean, variance)
            rows = rows * world_size()
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (rows / (rows - 1)), norm.momentum)
    else:
        mean, variance = norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def global_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, each (C,), of all processes' rows, from those of each.

    With as many rows in every process r:  m = mean_r m_r,  v = mean_r v_r + var_r m_r.
    One exchange for both; gradients go back to the process that they belong to.
    """
    means, variances = _FromAll.apply(torch.stack([mean, variance])).unbind(1)  # (R, C) each
    spread, mean = torch.var_mean(means, 0, correction=0)
    return mean, variances.mean(0) + spread


class _FromAll(torch.autograd.Function):
    """(...) of this process to (R, ...) of all R, in every process.

    In backward the gradients that the processes have for one of them are added up.
    """

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        gathered = [torch.empty_like(values) for _ in range(world_size())]
        dist.all_gather(gathered, values)
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[rank()]
