"""Layers that all encoders share, on channels-last rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.norms import linear_before_norm, norm_act, norm_act_max
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
        return self.after_first_linear(*linear_before_norm(self.linears[0], self.norms[0], x))

    def after_first_linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same for a caller that has applied ``linears[0]``: (..., widths[1]) is expected,
        with its bias or beside it."""
        rows, bias = self._before_last_norm(x, bias)
        return norm_act(self.norms[-1], rows, bias=bias).view(*x.shape[:-1], -1)

    def forward_max(self, x: Tensor) -> Tensor:
        """The maximum of :meth:`forward` over the rows of each group, (..., k, widths[0]) to
        (..., widths[-1]), without the rows that it is the maximum of."""
        return self.max_after_first_linear(*linear_before_norm(self.linears[0], self.norms[0], x))

    def max_after_first_linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same for a caller that has applied ``linears[0]``, as :meth:`after_first_linear`."""
        rows, bias = self._before_last_norm(x, bias)
        return norm_act_max(self.norms[-1], rows.view(*x.shape[:-1], -1), bias=bias)

    def _before_last_norm(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Rows (R, widths[-1]) after ``linears[-1]``, from ``x`` after ``linears[0]``."""
        rows = x.reshape(-1, x.shape[-1])
        for layer, linear in enumerate(self.linears[1:], 1):
            rows = norm_act(self.norms[layer - 1], rows, bias=bias)
            rows, bias = linear_before_norm(linear, self.norms[layer], rows)
        return rows, bias


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
        rows = x.flatten(0, -2)
        return norm_act(self.norm, rows, 1.0 if self.slope is None else self.slope).view(x.shape)


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
