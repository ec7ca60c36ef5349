"""Layers that all encoders share, on channels-last rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.kernels import ops
from utils.errors import ConfigError


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


class LinearNorm(nn.Module):
    """Linear without bias, batch normalisation over all leading dimensions, LeakyReLU of ``slope``.

    ``slope`` None leaves the activation out.
    """

    def __init__(self, before: int, after: int, slope: float | None = None):
        super().__init__()
        self.linear = nn.Linear(before, after, bias=False)
        self.norm = nn.BatchNorm1d(after)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """(..., before) to (..., after)."""
        return self.after_linear(self.linear(x))

    def after_linear(self, x: Tensor) -> Tensor:
        """The same for a caller that has applied ``linear``: (..., after) is expected."""
        rows = self.norm(x.flatten(0, -2))
        if self.slope is not None:
            rows = F.leaky_relu(rows, self.slope, inplace=True)
        return rows.view(x.shape)


def linear_of_parts(linear: nn.Linear, *parts: Tensor) -> Tensor:
    """``linear`` of the parts side by side, (..., C1), (..., C2) and so on to (..., out).

    Leading dimensions are broadcast and nothing is concatenated: what all points of a cloud share,
    (B, 1, C), is mapped once for the cloud.
    """
    columns = linear.weight.split([part.shape[-1] for part in parts], dim=1)
    total = F.linear(parts[0], columns[0], linear.bias)
    for part, of_part in zip(parts[1:], columns[1:], strict=True):
        total = total + F.linear(part, of_part)
    return total


def one_hot_category(category: Tensor | None, count: int, points: Tensor) -> Tensor:
    """``category`` (B,) int64 of the clouds ``points`` (B, N, 3) as one-hot rows (B, ``count``).

    Raises:
        ConfigError: no category, one for another number of clouds, or one outside 0 .. count - 1.
    """
    if category is None:
        raise ConfigError(
            "part segmentation has to be told what it divides: found no category, expected one "
            f"of {count} for each shape, category= (B,) int64"
        )
    if not isinstance(category, Tensor):
        raise ConfigError(
            "category must be an int64 tensor (B,) of class numbers, found "
            f"{type(category).__name__}"
        )
    if category.shape != points.shape[:1] or category.is_floating_point():
        raise ConfigError(
            f"category must be int64 with one entry for each of the {len(points)} clouds, found "
            f"{str(category.dtype).removeprefix('torch.')} of shape {tuple(category.shape)}"
        )
    check_category(category, count)
    return one_hot(category, count, points)


def one_hot(category: Tensor, count: int, like: Tensor) -> Tensor:
    """``category`` (R,) of 0 .. ``count`` - 1 as rows (R, ``count``) of the type of ``like``.

    PyTorch's own looks at the numbers first, which would make every step wait.
    """
    rows = like.new_zeros(len(category), count)
    return rows.scatter_(1, category.long().unsqueeze(1), 1.0)


def check_category(category: Tensor, count: int) -> None:
    """Refuse a ``category`` (B,) outside 0 .. count - 1.

    On CUDA the answer would make every step wait, so it is not asked: PyTorch's own kernels stop
    the program there.

    Raises:
        ConfigError: see above.
    """
    if category.is_cuda:
        return
    low, high = category.aminmax()
    if low < 0 or high >= count:
        raise ConfigError(
            f"category must be in 0 .. {count - 1}, found {int(low)} .. {int(high)}: this network "
            f"knows {count} categories, in the order of the set that it was trained on"
        )


def max_over_rows(x: Tensor) -> Tensor:
    """Channel-wise maximum of (..., N, C) over N, to (..., C): ``x.max(dim=-2).values``, faster.

    The gradient of each maximum goes to one row, the first that attains it. ``max`` itself tracks
    that row up to ten times slower on a CPU than it finds the maximum alone. There the projection's
    kernel does both in one pass, with one view that sees every row. Elsewhere, where a compiler may
    fuse tensor code with the layer before, finding the row is left to backward, which compares all
    rows with the maximum.
    """
    if x.device.type != "cpu":
        return _MaxOverRows.apply(x)
    clouds = x.flatten(0, -3) if x.dim() > 2 else x.unsqueeze(0)  # (R, N, C)
    every = torch.ones(clouds.shape[:2], dtype=torch.int32)
    return ops.visible_max(clouds, every, 1)[0].view(*x.shape[:-2], x.shape[-1])


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
