"""The kernels as tensor code, for any device: the reference that the others are compared with.

B clouds, N points, S queries or centres; positions are float32. Of equal distances the lowest index
comes first. Distances are sums of squared differences, added in the order of the axes, so that
equal points have equal distances and every form of the kernels has the same ones to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.kernels.plain_matching import match as match

# Entries of one distance matrix, (b, S, N) for some b clouds at a time. On a CPU it should fit the
# cache; on a GPU it should fill the device and still leave the memory to the network.
CPU_ENTRIES = 2**20
GPU_ENTRIES = 2**26
ORIGIN = 1e-3  # squared radius around the origin that some published samplers leave out


def farthest_point_sample(points: Tensor, m: int, start: int, skip_origin: bool = False) -> Tensor:
    """``points`` (B, N, 3) to (B, m) int64; as :mod:`models.layers.pointops`."""
    batch = len(points)
    xyz = points.permute(2, 0, 1).contiguous()  # (3, B, N)
    chosen = torch.empty(m, batch, dtype=torch.int64, device=points.device)
    chosen[0] = start
    nearest = torch.full_like(xyz[0], torch.inf)  # squared distance to the chosen ones
    offset = torch.empty_like(xyz)
    x, y, z = offset
    if skip_origin:  # below every distance, and it stays there
        torch.mul(xyz, xyz, out=offset)
        nearest.masked_fill_(x.add_(y).add_(z) <= ORIGIN, -1)
    for step in range(1, m):
        last = chosen[step - 1].view(1, batch, 1).expand(3, batch, 1)
        torch.sub(xyz, xyz.gather(2, last), out=offset)
        offset.mul_(offset)
        torch.minimum(nearest, x.add_(y).add_(z), out=nearest)
        torch.argmax(nearest, dim=1, out=chosen[step])
    return chosen.T.contiguous()


def ball_query(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    """(B, N, 3) and (B, S, 3) to (B, S, k) int64; see :func:`models.layers.pointops.ball_query`."""
    parts = []
    for some_points, some_centres in by_clouds(points, centres):
        distance = _squared_distances(some_centres, some_points)  # (b, S, N)
        # how many are inside up to each point: the i-th of them is the first one that has i
        rank = (distance <= radius**2).cumsum(dim=2, dtype=torch.int32)
        order = torch.arange(1, k + 1, dtype=torch.int32, device=points.device)
        found = torch.searchsorted(rank, order.expand(*rank.shape[:2], k).contiguous())
        first = torch.where(rank[..., -1] > 0, found[..., 0], distance.argmin(dim=2))
        parts.append(torch.where(found < points.shape[1], found, first.unsqueeze(2)))
    return torch.cat(parts)


def knn(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """(B, N, D) and (B, S, D), D at most 3, to the (B, S, k) int64 nearest, nearest first."""
    pairs = by_clouds(points, queries)
    return torch.cat([smallest(_squared_distances(few, some), k) for some, few in pairs])


def smallest(values: Tensor, k: int) -> Tensor:
    """Where the k smallest of each row are: (B, S, N) float32 to (B, S, k) int64, ascending.

    Zeros of either sign are equal. What is not a number comes after all numbers, by index.
    """
    # One integer orders by value, then index: the bits of a float ascend with its value once those
    # of a negative one are flipped but for the sign.
    bits = (values + 0.0).view(torch.int32)  # -0 + 0 is 0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = bits.masked_fill_(values.isnan(), 0x7FFFFFFF).long().bitwise_left_shift_(32)
    key.bitwise_or_(torch.arange(values.shape[2], device=values.device))
    return key.topk(k, dim=2, largest=False).values.bitwise_and_(0xFFFFFFFF)


def by_clouds(points: Tensor, queries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both, some clouds at a time, so that a matrix (b, S, N) between them stays small."""
    limit = CPU_ENTRIES if points.device.type == "cpu" else GPU_ENTRIES
    clouds = max(1, limit // (points.shape[1] * queries.shape[1]))
    yield from zip(points.split(clouds), queries.split(clouds), strict=True)


def _squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """(b, S, D) and (b, N, D) to (b, S, N): squared differences, summed in order of the axes."""
    of_queries = queries.permute(2, 0, 1).unsqueeze(3).contiguous()  # (D, b, S, 1)
    of_points = points.permute(2, 0, 1).unsqueeze(2).contiguous()  # (D, b, 1, N)
    total = (of_queries[0] - of_points[0]).square_()
    term = torch.empty_like(total)
    for query, point in zip(of_queries[1:], of_points[1:], strict=True):
        torch.sub(query, point, out=term)
        total.add_(term.mul_(term))
    return total


def pack_views(visibility: Tensor) -> Tensor:
    """(B, M, V) bool, V at most 32, to (B, M) int32 whose bit v is that of view v."""
    place = torch.arange(visibility.shape[2], dtype=torch.int32, device=visibility.device)
    return (visibility.int() << place).sum(dim=2, dtype=torch.int32)


def visible_max(features: Tensor, bits: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Maximum over the rows that each view sees, and which row it is.

    Args:
        features: (B, M, C) floating point.
        bits: (B, M) int32; bit v is set where view v sees the row.
        views: V, at most 32.

    Returns:
        pooled (B, V, C): the maxima, of the type of ``features``; NaN where a row that the view
            sees is; 0 where it sees none.
        row (B, V, C): the lowest row that attains the maximum (is NaN, if that is it), -1 where
            the view sees none. Its type is :func:`row_type`.
    """
    batch, count, channels = features.shape
    pooled = features.new_empty(batch, views, channels)
    row = torch.empty(pooled.shape, dtype=row_type(count), device=features.device)
    for view in range(views):
        seen = ((bits >> view) & 1).bool().unsqueeze(2)  # (B, M, 1)
        highest, first = features.masked_fill(~seen, -torch.inf).max(dim=1)  # (B, C)
        # a row that is seen may be -inf itself and yet not the first of those
        first = torch.where(highest == -torch.inf, seen.byte().argmax(dim=1), first)
        blind = ~seen.any(dim=1)  # (B, 1)
        pooled[:, view] = highest.masked_fill_(blind, 0)
        row[:, view] = first.masked_fill_(blind, -1)
    return pooled, row


def visible_max_backward(gradient: Tensor, row: Tensor, count: int) -> Tensor:
    """Gradient (B, V, C) of ``pooled`` to that of the M = ``count`` rows, (B, M, C), same type.

    ``row`` is what :func:`visible_max` returned. Views add up in their order, in float32 at least.
    """
    batch, views, channels = gradient.shape
    exact = torch.promote_types(gradient.dtype, torch.float32)
    total = torch.zeros(batch, count, channels, dtype=exact, device=gradient.device)
    for view in range(views):
        to = row[:, view : view + 1].long()  # (B, 1, C)
        part = gradient[:, view : view + 1].to(exact).masked_fill(to < 0, 0)
        total.scatter_add_(1, to.clamp_min(0), part)
    return total.to(gradient.dtype)


def row_type(count: int) -> torch.dtype:
    """The type of row numbers below ``count``."""
    return torch.int16 if count <= torch.iinfo(torch.int16).max else torch.int32


def neighbour_max(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Channel-wise maximum over the neighbours ``index`` (B, S, k), and which of them attains it.

    Args:
        values: (B, N, C) float32 or float64; they must be numbers.
        index: (B, S, k) int64, below N.

    Returns:
        highest (B, S, C), of the type of ``values``, and winner (B, S, C) int32, the first one in
        ``index``, as a number below N.
    """
    highest, _, _, row = _reduce_bags(values, index, mode=2)
    winner = row.view(*index.shape[:2], -1) % values.shape[1]
    return highest.view(winner.shape), winner.int()


def neighbour_max_backward(gradient: Tensor, winner: Tensor, count: int) -> Tensor:
    """Gradient (B, S, C) of ``highest`` to that of the N = ``count`` rows, (B, N, C)."""
    total = gradient.new_zeros(len(gradient), count, gradient.shape[2])
    return total.scatter_add_(1, winner.long(), gradient)


def neighbour_mean(values: Tensor, index: Tensor) -> Tensor:
    """Mean of (B, N, C) over the neighbours ``index`` (B, S, k), to (B, S, C)."""
    return _reduce_bags(values, index, mode=1)[0].view(*index.shape[:2], -1)


def _reduce_bags(values: Tensor, index: Tensor, mode: int) -> tuple[Tensor, ...]:
    """Mean (``mode`` 1) or maximum (2) of the neighbours of each point, whose rows, (B, S, k, C),
    are never built: what ``torch.embedding_bag`` returns for all clouds as one matrix."""
    batch, _, k = index.shape
    count, channels = values.shape[1:]
    begins = torch.arange(0, batch * count, count, device=index.device).view(-1, 1, 1)
    bags = torch.arange(0, index.numel(), k, device=index.device)
    rows = values.reshape(-1, channels)
    return torch.embedding_bag(rows, (index + begins).flatten(), bags, mode=mode)


def neighbour_mean_backward(gradient: Tensor, index: Tensor, count: int) -> Tensor:
    """Gradient (B, S, C) of the mean to that of the N = ``count`` rows, (B, N, C)."""
    total = gradient.new_zeros(len(gradient), count, gradient.shape[2])
    part = gradient / index.shape[2]
    for near in index.unbind(2):
        total.scatter_add_(1, near.unsqueeze(2).expand_as(part), part)
    return total
