"""Sampling, neighbours and interpolation on point clouds, the only place where indices are made.

B clouds, N points, S queries or centres, C coordinates or channels. Distances are computed in
float32, whatever autocast and the process have chosen for other products: in bfloat16 one neighbour
in a hundred would be another one, and one in a thousand in the TensorFloat-32 of GPUs. No gradient
flows through an index. Every choice is defined, so the same cloud gives the same indices whatever
its batch mates: of equal distances the lowest index comes first. Coordinates must be finite; where
they are not, indices are still below N. The loops themselves are in :mod:`models.kernels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import ops
from models.kernels.plain import by_clouds
from utils.errors import ConfigError

# What the centres of a network that reduces its points are: their farthest-point sample, or the
# first ones of the stored order, which in prepared sets are that sample of the unaugmented cloud.
# off_origin: the farthest-point sample of the points off the origin, as some releases have it.
Sampling = Literal["farthest", "stored", "off_origin"]


@torch.no_grad()
def farthest_point_sample(
    points: Tensor, m: int, start: int = 0, skip_origin: bool = False
) -> Tensor:
    """Indices (B, m) int64 of points that are each the farthest from those chosen before.

    ``points`` is (B, N, 3), the first choice is point ``start``. The first m' < m indices are the
    sample of size m'. Squared distances are summed in the order x, y, z, so that data preparation
    and training agree to the bit. Where a cloud has fewer than m different points, the rest of the
    indices are 0.

    ``skip_origin``: points whose squared norm is 1e-3 or less are not chosen after ``start``, as in
    the sampler that PointCMT's and PointMLP's releases share. Where the others run out, the rest of
    the indices are the first of them, 0 if there is none.

    Raises:
        ConfigError: if N < m.
        ValueError: if the shapes are others, m is 0 or there is no point ``start``.
    """
    _check_shapes(points, points, m, positions=True)
    _require(points.shape[1], m, "centres to sample")
    if not 0 <= start < points.shape[1]:
        raise ValueError(f"start must be one of {points.shape[1]} points, found {start}")
    return ops.farthest_point_sample(points.float(), m, start, skip_origin)


def sample_centres(points: Tensor, m: int, sampling: Sampling) -> Tensor:
    """Indices (B, m) int64 of the centres of ``points`` (B, N, 3), beginning with point 0.

    Raises:
        ConfigError: if N < m.
    """
    if sampling != "stored":
        return farthest_point_sample(points, m, skip_origin=sampling == "off_origin")
    batch, count, _ = points.shape
    _require(count, m, "centres")
    return torch.arange(m, device=points.device).expand(batch, -1)


@torch.no_grad()
def ball_query(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    """Indices (B, S, k) int64 of the first k points, by index, within ``radius`` of each centre.

    Balls are closed. One with fewer points repeats its first one, an empty one repeats the nearest
    point. ``points`` (B, N, 3) and ``centres`` (B, S, 3) are in the same units as ``radius``.

    paper: PointNet++ (Qi et al., NeurIPS 2017) takes any k points within the radius.
    here: the first k, as its authors' code does, because that is defined without a random draw.

    Raises:
        ConfigError: if there are no points.
        ValueError: if the shapes are others or do not belong together, or k is 0.
    """
    _check_shapes(points, centres, k, positions=True)
    _require(points.shape[1], 1, "neighbours")
    return ops.ball_query(points.float(), centres.float(), radius, k)


@torch.no_grad()
def knn(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Indices (B, S, k) int64 of the k nearest points of each query, nearest first.

    ``points`` (B, N, C) and ``queries`` (B, S, C) may be positions or features. In three dimensions
    distances are sums of squared differences, and equal points have equal distances. In feature
    space they come from the expansion |p|^2 - 2 p.q (less |q|^2, which orders nothing), because
    the differences would cost C times the memory traffic. Both are first taken from the first
    point of the cloud: that changes no distance, and what all features share would otherwise cancel
    at the price of the last digits of their differences.

    Raises:
        ConfigError: if N < k.
        ValueError: if the shapes are others or do not belong together, or k is 0.
    """
    _check_shapes(points, queries, k)
    _require(points.shape[1], k, "neighbours of each point")
    find = ops.knn if points.shape[2] <= 3 else knn_of_features
    return find(points.float(), queries.float(), k)


# an operator as well: torch.compile cannot trace the choice of the precision of a product
@ops.operator
def knn_of_features(points: Tensor, queries: Tensor, k: int) -> Tensor:
    parts = []
    for some_points, some_queries in by_clouds(points, queries):
        origin = some_points[:, :1]
        order = _feature_order(some_queries - origin, some_points - origin)
        parts.append(ops.smallest(order, k))
    return torch.cat(parts)


@torch.library.register_fake(knn_of_features)
def _(points: Tensor, queries: Tensor, k: int) -> Tensor:
    return queries.new_empty(*queries.shape[:2], k, dtype=torch.int64)


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of ``x`` (B, N, C) at ``index`` (B, ...) int64: (B, ..., C), differentiable in ``x``."""
    count, channels = x.shape[1:]
    rows = flat_rows(index, count).flatten()
    return x.reshape(-1, channels).index_select(0, rows).view(*index.shape, channels)


def flat_rows(index: Tensor, count: int) -> Tensor:
    """``index`` (B, ...) into clouds of ``count`` points, as rows of the (B * N, C) matrix."""
    first = torch.arange(0, len(index) * count, count, device=index.device)
    return index + first.view(-1, *[1] * (index.dim() - 1))


def interpolate_three_nn(points: Tensor, known: Tensor, features: Tensor) -> Tensor:
    """Features (B, S, C) of ``known`` positions (B, S, 3) carried to ``points`` (B, N, 3).

    Each point takes the mean of its three nearest known positions (of all, if there are fewer),
    weighted by the inverse of the squared distance (Qi et al., PointNet++, equation 2). Returns
    (B, N, C), differentiable in ``features``.
    """
    index = knn(known, points, min(3, known.shape[1]))  # (B, N, 3)
    exact = torch.promote_types(features.dtype, torch.float32)
    with torch.no_grad():
        offset = gather_rows(known.to(exact), index) - points.to(exact).unsqueeze(2)
        weight = 1 / (offset.square().sum(dim=3) + 1e-8)
        weight = weight / weight.sum(dim=2, keepdim=True)  # (B, N, 3)
    batch, count, channels = features.shape
    # a weighted sum of rows in one kernel: the rows themselves, (B, N, 3, C), are never built
    carried = F.embedding_bag(
        flat_rows(index, count).flatten(0, 1),
        features.to(exact).reshape(-1, channels),
        per_sample_weights=weight.flatten(0, 1),
        mode="sum",
    )
    return carried.view(batch, -1, channels)


def _check_shapes(points: Tensor, queries: Tensor, wanted: int, positions: bool = False) -> None:
    """Refuse what the kernels, which read memory directly, would take for something else."""
    of_points, of_queries = tuple(points.shape), tuple(queries.shape)
    axes = "3" if positions else "C"
    if (
        len(of_points) != 3
        or len(of_queries) != 3
        or of_points[::2] != of_queries[::2]
        or of_points[2] < 1
        or (positions and of_points[2] != 3)
    ):
        raise ValueError(
            f"expected points (B, N, {axes}) and queries (B, S, {axes}), found {of_points} and "
            f"{of_queries}"
        )
    if wanted < 1:
        raise ValueError(f"expected to be asked for at least one point, found {wanted}")


def _require(count: int, wanted: int, what: str) -> None:
    if count < wanted:
        raise ConfigError(
            f"a cloud of {count} points cannot give {wanted} {what}: "
            f"use at least {wanted} points or another encoder"
        )


def _feature_order(queries: Tensor, points: Tensor) -> Tensor:
    """|p|^2 - 2 p.q: (b, S, C) and (b, N, C) to (b, S, N)."""
    square = points.square().sum(dim=2).unsqueeze(1)  # (b, 1, N)
    with full_float32(points):
        return torch.baddbmm(square, queries, points.transpose(1, 2), alpha=-2)


@contextmanager
def full_float32(x: Tensor) -> Iterator[None]:
    """Matrix products on the device of ``x`` without autocast and without TensorFloat-32.

    For positions, whose differences are small beside them, and for distances in feature space.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(x.device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


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
