"""Sampling and neighbours in Triton.

Distances are the same to the bit as those of ``plain``: squared differences, added in the order of
the axes. A fused multiply-add rounds once where a product and a sum round twice, so every kernel
with a distance is compiled with ``enable_fp_fusion=False``.

What does not fit the registers of a program (clouds of more than ``MOST_SAMPLED`` or
``MOST_SEARCHED`` points, more than ``MOST_NEIGHBOURS`` neighbours) is left to tensor code.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv, next_power_of_2

from models.kernels import plain

MOST_SAMPLED = 8192
MOST_SEARCHED = 4096
# Each neighbour costs one more search among the heads of all columns, while the radix selection
# of tensor code costs the same for any number.
MOST_NEIGHBOURS = 64
CENTRES, POINTS = 4, 128  # of one ball query's tile

EXACT = {"enable_fp_fusion": False}  # Triton's own default differs between its releases


def farthest_point_sample(points: Tensor, m: int, start: int, skip_origin: bool = False) -> Tensor:
    """(B, N, 3) to (B, m) int64; see :func:`models.layers.pointops.farthest_point_sample`.

    One program samples a whole cloud, with coordinates and distances in registers.
    """
    batch, count, _ = points.shape
    if count > MOST_SAMPLED:
        return plain.farthest_point_sample(points, m, start, skip_origin)
    limit = plain.ORIGIN if skip_origin else -1.0
    chosen = torch.empty(batch, m, dtype=torch.int64, device=points.device)
    with torch.cuda.device_of(points):
        sample_kernel[(batch,)](
            points, chosen, count, m, start, limit, **whole_cloud(count), **EXACT
        )
    return chosen


def ball_query(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    """(B, N, 3) and (B, S, 3) to (B, S, k) int64; see :func:`models.layers.pointops.ball_query`.

    A program goes through the points for a few centres, and stops when they all have k.
    """
    batch, count, _ = points.shape
    queries = centres.shape[1]
    found = torch.empty(batch, queries, k, dtype=torch.int64, device=points.device)
    with torch.cuda.device_of(points):
        ball_kernel[(cdiv(queries, CENTRES), batch)](
            *(points, centres, found, count, queries, k, radius**2),
            SLOTS=next_power_of_2(k),
            CENTRES=CENTRES,
            POINTS=POINTS,
            num_warps=1,
            **EXACT,
        )
    return found


def knn(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """(B, N, D) and (B, S, D), D at most 3, to the (B, S, k) int64 nearest, nearest first.

    A program finds the neighbours of one query; no distance is ever written to memory.
    """
    batch, count, axes = points.shape
    if count > MOST_SEARCHED or k > MOST_NEIGHBOURS:
        return plain.knn(points, queries, k)
    asked = queries.shape[1]
    found = torch.empty(batch, asked, k, dtype=torch.int64, device=points.device)
    with torch.cuda.device_of(points):
        nearest_kernel[(batch * asked,)](
            points, queries, found, count, asked, k, AXES=axes, **columns(count), **EXACT
        )
    return found


def smallest(values: Tensor, k: int) -> Tensor:
    """Where the k smallest of each row are: (B, S, N) float32 to (B, S, k) int64, ascending."""
    batch, rows, count = values.shape
    if count > MOST_SEARCHED or k > MOST_NEIGHBOURS:
        return plain.smallest(values, k)
    found = torch.empty(batch, rows, k, dtype=torch.int64, device=values.device)
    with torch.cuda.device_of(values):
        smallest_kernel[(batch * rows,)](values, found, count, k, **columns(count), **EXACT)
    return found


def whole_cloud(count: int) -> dict[str, int]:
    """N points in one tile, eight in each thread."""
    width = max(128, next_power_of_2(count))
    return {"N": width, "num_warps": max(1, width // 256)}


def columns(count: int) -> dict[str, int]:
    """N entries as four rows of COLUMNS; a warp for each 1024 entries, 32 in each thread."""
    width = max(128, next_power_of_2(count))
    return {"COLUMNS": width // 4, "num_warps": max(1, width // 1024)}


@triton.jit(do_not_specialize=["start"])
def sample_kernel(points, chosen, count, m, start, limit, N: tl.constexpr):
    cloud = tl.program_id(0).to(tl.int64)
    points += cloud * count * 3
    chosen += cloud * m
    index = tl.arange(0, N)
    inside = index < count
    x = tl.load(points + index * 3, mask=inside, other=0.0)
    y = tl.load(points + index * 3 + 1, mask=inside, other=0.0)
    z = tl.load(points + index * 3 + 2, mask=inside, other=0.0)
    # what is outside, or no farther than ``limit`` (squared) from the origin, is never the farthest
    nearest = tl.where(inside, float("inf"), -1.0)
    nearest = tl.where(x * x + y * y + z * z <= limit, -1.0, nearest)
    last = start
    for step in range(m):
        tl.store(chosen + step, last.to(tl.int64))
        dx = x - tl.load(points + last * 3)
        dy = y - tl.load(points + last * 3 + 1)
        dz = z - tl.load(points + last * 3 + 2)
        nearest = tl.minimum(nearest, dx * dx + dy * dy + dz * dz)
        # one integer orders by distance, then by the lower index
        distance = nearest.to(tl.int32, bitcast=True).to(tl.int64)
        farthest = tl.max((distance << 32) | (N - 1 - index), axis=0)
        last = N - 1 - (farthest & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def squared(points, n, query, there, AXES: tl.constexpr):
    """Squared distances of points ``n`` from the query (pointers to its first coordinate)."""
    offset = tl.load(query) - tl.load(points + n * AXES, mask=there, other=0.0)
    total = offset * offset
    for axis in tl.static_range(1, AXES):
        offset = tl.load(query + axis) - tl.load(points + n * AXES + axis, mask=there, other=0.0)
        total += offset * offset
    return total


@triton.jit
def key_of(value, n, there):
    """One int64 that orders by value, then by index; what is not ``there`` comes last of all."""
    value += 0.0  # zeros of either sign are equal
    bits = value.to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    bits = tl.where(value != value, 0x7FFFFFFF, bits)
    return tl.where(there, (bits.to(tl.int64) << 32) | n, 0x7FFFFFFFFFFFFFFF)


@triton.jit
def write_smallest(a, b, c, d, found, k):
    """Indices of the k smallest keys, ascending, to ``found``.

    Each column of four is sorted first, so that only the heads of the columns compete: a quarter
    of the comparisons. The column whose head wins moves up.
    """
    a, b = tl.minimum(a, b), tl.maximum(a, b)
    c, d = tl.minimum(c, d), tl.maximum(c, d)
    a, c = tl.minimum(a, c), tl.maximum(a, c)
    b, d = tl.minimum(b, d), tl.maximum(b, d)
    b, c = tl.minimum(b, c), tl.maximum(b, c)
    for place in range(k):
        head = tl.min(a, axis=0)
        tl.store(found + place, head & 0xFFFFFFFF)
        won = a == head
        a = tl.where(won, b, a)
        b = tl.where(won, c, b)
        c = tl.where(won, d, c)
        d = tl.where(won, 0x7FFFFFFFFFFFFFFF, d)


@triton.jit
def distance_key(points, n, query, count, AXES: tl.constexpr):
    return key_of(squared(points, n, query, n < count, AXES), n, n < count)


@triton.jit
def nearest_kernel(
    points, queries, found, count, asked, k, AXES: tl.constexpr, COLUMNS: tl.constexpr
):
    query = tl.program_id(0).to(tl.int64)
    points += (query // asked) * count * AXES
    queries += query * AXES
    n = tl.arange(0, COLUMNS)
    write_smallest(
        distance_key(points, n, queries, count, AXES),
        distance_key(points, n + COLUMNS, queries, count, AXES),
        distance_key(points, n + 2 * COLUMNS, queries, count, AXES),
        distance_key(points, n + 3 * COLUMNS, queries, count, AXES),
        found + query * k,
        k,
    )


@triton.jit
def value_key(values, n, count):
    return key_of(tl.load(values + n, mask=n < count, other=0.0), n, n < count)


@triton.jit
def smallest_kernel(values, found, count, k, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    values += row * count
    n = tl.arange(0, COLUMNS)
    write_smallest(
        value_key(values, n, count),
        value_key(values, n + COLUMNS, count),
        value_key(values, n + 2 * COLUMNS, count),
        value_key(values, n + 3 * COLUMNS, count),
        found + row * k,
        k,
    )


@triton.jit
def ball_kernel(
    points,
    centres,
    found,
    count,
    queries,
    k,
    limit,
    SLOTS: tl.constexpr,
    CENTRES: tl.constexpr,
    POINTS: tl.constexpr,
):
    """``limit`` is the squared radius. Rows of a tile are centres, its columns points."""
    cloud = tl.program_id(1).to(tl.int64)
    centre = tl.program_id(0) * CENTRES + tl.arange(0, CENTRES)
    wanted = centre < queries
    points += cloud * count * 3
    # centres beyond the last repeat it, so that they end no later than it does
    query = centres + (cloud * queries + tl.minimum(centre, queries - 1)[:, None]) * 3
    found += (cloud * queries + centre[:, None]) * k
    column = tl.arange(0, POINTS)[None, :]
    total = tl.zeros([CENTRES], tl.int32)
    first = tl.zeros([CENTRES], tl.int32)
    begin = 0
    while (begin < count) & (tl.min(total, axis=0) < k):
        n = begin + column
        there = n < count
        inside = (squared(points, n, query, there, 3) <= limit) & there
        place = total[:, None] + tl.cumsum(inside.to(tl.int32), axis=1) - 1
        tl.store(found + place, n, mask=inside & (place < k) & wanted[:, None])
        first += tl.sum(tl.where(inside & (place == 0), n, 0), axis=1)
        total += tl.sum(inside.to(tl.int32), axis=1)
        begin += POINTS
    if tl.min(total, axis=0) == 0:
        nearest = tl.full([CENTRES], 0x7FFFFFFFFFFFFFFF, tl.int64)
        for begin in range(0, count, POINTS):
            n = begin + column
            key = key_of(squared(points, n, query, n < count, 3), n, n < count)
            nearest = tl.minimum(nearest, tl.min(key, axis=1))
        first = tl.where(total == 0, (nearest & 0xFFFFFFFF).to(tl.int32), first)
    slot = tl.arange(0, SLOTS)[None, :]
    rest = (slot >= total[:, None]) & (slot < k)
    tl.store(found + slot, first[:, None], mask=rest & wanted[:, None])
