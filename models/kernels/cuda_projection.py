"""The visible maximum in Triton: lists of visible rows, their maxima, and the gradient.

Forward, the arithmetic is the limit: a comparison of every embedding with the maximum of every view
costs several times what reading the embeddings does. So the rows that each view sees are listed
first, and a view visits its own rows only. A program owns the embeddings of some channels of one
sample and goes through them chunk by chunk: it reads a chunk from memory once, in rows, and then
all views visit it where it still lies in the first-level cache.

Backward, the gradient is gathered: each element looks for its row number among those of the views,
is written once, and adds up what it finds in the order of the views. No atomics, so the same sums
at every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv, next_power_of_2

from models.kernels.cuda_points import EXACT

# Rows of one chunk. Four programs share a multiprocessor, and their chunks must lie in its cache:
# 4 * 128 rows * 64 channels * 4 bytes are 128 KiB of 256.
CHUNK = tl.constexpr(128)
ROWS_AT_ONCE = tl.constexpr(32)  # of a chunk, while it is read for the first time
VISITS_AT_ONCE = tl.constexpr(4)  # rows of a list whose loads are under way together
CHANNELS, WARPS = 64, 4
BACKWARD_ROWS, BACKWARD_CHANNELS = 32, 128  # of one warp: 128 sums in each thread's registers


def visible_max(features: Tensor, bits: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """(B, M, C) float32, bfloat16 or float16 and (B, M) int32 to (B, V, C) twice; row is int16.

    See :func:`models.kernels.plain.visible_max`. M is at most 32767, ``views`` 32.
    """
    batch, count, channels = features.shape
    chunks = cdiv(count, CHUNK.value)
    lists = bits.new_empty(batch, chunks, views, CHUNK.value, dtype=torch.int16)
    lengths = bits.new_empty(batch, chunks, views)
    first = bits.new_empty(batch, views)
    pooled = features.new_empty(batch, views, channels)
    row = torch.empty_like(pooled, dtype=torch.int16)
    some, rest = groups(views)
    with torch.cuda.device_of(features):
        list_kernel[(views, batch)](
            bits, lists, lengths, first, count, views, chunks, num_warps=1, **EXACT
        )
        maximum_kernel[(cdiv(channels, CHANNELS), batch)](
            *(features, lists, lengths, first, pooled, row),
            *(count, channels, views, chunks),
            SOME=some,
            REST=rest,
            VIEWS=next_power_of_2(views),
            CHANNELS=CHANNELS,
            num_warps=WARPS,
            **EXACT,
        )
    return pooled, row


def visible_max_backward(gradient: Tensor, row: Tensor, count: int) -> Tensor:
    """(B, V, C) and its int16 rows to (B, M, C) with M = ``count``, each element written once.

    See :func:`models.kernels.plain.visible_max_backward`.
    """
    batch, views, channels = gradient.shape
    out = gradient.new_empty(batch, count, channels)
    grid = (cdiv(count, BACKWARD_ROWS), cdiv(channels, BACKWARD_CHANNELS), batch)
    with torch.cuda.device_of(gradient):
        gradient_kernel[grid](
            *(gradient, row, out, count, channels, views),
            ROWS=BACKWARD_ROWS,
            CHANNELS=BACKWARD_CHANNELS,
            num_warps=1,
            **EXACT,
        )
    return out


def groups(views: int) -> tuple[int, int]:
    """The two groups of views: tiles have powers of two of rows, so 12 views are 8 and 4."""
    some = 1 << (views.bit_length() - 1)
    return some, next_power_of_2(views - some) if views > some else 0


@triton.jit
def list_kernel(bits, lists, lengths, first, count, views, chunks):
    """The rows of each chunk that a view sees, ascending: one program per (view, sample).

    Lists (B, chunks, V, CHUNK) are filled up with the first row that the view sees at all, which
    changes no maximum, so that a list can be read to any length without a mask.
    """
    view = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    slot = tl.arange(0, CHUNK)
    bits += sample * count
    lowest = tl.zeros([CHUNK], tl.int32) + count
    for chunk in range(chunks):
        n = slot + chunk * CHUNK
        word = tl.load(bits + n, mask=n < count, other=0)
        lowest = tl.minimum(lowest, tl.where(((word >> view) & 1) != 0, n, count))
    begin = tl.min(lowest, axis=0)
    tl.store(first + sample * views + view, tl.where(begin < count, begin, -1))
    filling = tl.where(begin < count, begin, 0).to(tl.int16)
    for chunk in range(chunks):
        n = slot + chunk * CHUNK
        seen = (tl.load(bits + n, mask=n < count, other=0) >> view) & 1
        length = tl.sum(seen, axis=0)
        place = (sample * chunks + chunk) * views + view
        entry = lists + place * CHUNK
        tl.store(entry + tl.cumsum(seen, axis=0) - 1, n.to(tl.int16), mask=seen != 0)
        tl.store(entry + slot, tl.zeros([CHUNK], tl.int16) + filling, mask=slot >= length)
        tl.store(lengths + place, length)


@triton.jit
def rows_of(entry, view, views):
    """The rows that come next in the lists of these views: (views, 1) int32."""
    return tl.load(entry + view * CHUNK, mask=view < views, other=0).to(tl.int32)


@triton.jit
def visit(best, row, entry, view, views, features, channels, inside):
    """Maxima so far and their rows, after the next row of each view."""
    n = rows_of(entry, view, views)
    x = tl.load(features + n * channels, mask=inside).to(tl.float32)
    return tl.maximum(best, x), tl.where(x > best, n, row)


@triton.jit
def visit_for_nan(found, entry, view, views, features, channels, inside):
    """The lowest row so far that is not a number, after the next row of each view."""
    n = rows_of(entry, view, views)
    x = tl.load(features + n * channels, mask=inside, other=0.0).to(tl.float32)
    return tl.where(x != x, tl.minimum(found, n), found)


@triton.jit
def finish(best, row, found, begin, count, pooled, rows, view, views, channels, inside):
    """Write the maxima: NaN where one was found, zero for a view that sees nothing.

    The list of such a view is not empty, but its ``begin``, the first row it sees, is -1.
    """
    is_nan = found < count
    best = tl.where(begin < 0, 0.0, tl.where(is_nan, float("nan"), best))
    row = tl.where(begin < 0, -1, tl.where(is_nan, found, row))
    inside = inside & (view < views)
    tl.store(pooled + view * channels, best.to(pooled.dtype.element_ty), mask=inside)
    tl.store(rows + view * channels, row.to(tl.int16), mask=inside)


@triton.jit
def maximum_kernel(
    features,
    lists,
    lengths,
    first,
    pooled,
    rows,
    count,
    channels,
    views,
    chunks,
    SOME: tl.constexpr,
    REST: tl.constexpr,
    VIEWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Maxima and rows of all views over some channels of one sample.

    The views are held as two groups of SOME and REST, powers of two. Rows come in ascending order
    and only a greater value replaces the maximum, so of equals the lowest row stays.
    """
    sample = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = channel < channels
    features += sample * count * channels + channel
    pooled += sample * views * channels + channel
    rows += sample * views * channels + channel
    first += sample * views
    view = tl.arange(0, SOME)[:, None]
    begin = tl.load(first + view)
    none = tl.zeros([SOME, CHANNELS], tl.int32)
    best = none.to(tl.float32) - float("inf")
    row = none + begin  # which stays where all rows are -inf
    if REST > 0:
        more_view = SOME + tl.arange(0, REST)[:, None]
        more_begin = tl.load(first + more_view, mask=more_view < views, other=-1)
        more_none = tl.zeros([REST, CHANNELS], tl.int32)
        more_best = more_none.to(tl.float32) - float("inf")
        more_row = more_none + more_begin
    at_once = tl.arange(0, ROWS_AT_ONCE)[:, None]
    total = tl.zeros([ROWS_AT_ONCE, CHANNELS], tl.float32)
    every = tl.arange(0, VIEWS)
    for chunk in range(chunks):
        # Many loads under way, and what they bring stays in the cache for the views. Their sum
        # tells whether there is anything that is not a number.
        for part in tl.static_range(0, CHUNK, ROWS_AT_ONCE):
            n = at_once + part + chunk * CHUNK
            there = inside & (n < count)
            total += tl.load(features + n * channels, mask=there, other=0.0).to(tl.float32)
        place = (sample * chunks + chunk) * views
        longest = tl.max(tl.load(lengths + place + every, mask=every < views, other=0), axis=0)
        for step in range(0, longest, VISITS_AT_ONCE):
            for ahead in tl.static_range(VISITS_AT_ONCE):
                entry = lists + place * CHUNK + step + ahead
                best, row = visit(best, row, entry, view, views, features, channels, inside)
                if REST > 0:
                    more_best, more_row = visit(
                        more_best, more_row, entry, more_view, views, features, channels, inside
                    )
    found = none + count
    if REST > 0:
        more_found = more_none + count
    # infinities of both signs lead here too, and nothing is found
    if tl.max(tl.max((total != total).to(tl.int32), axis=1), axis=0) > 0:
        for chunk in range(chunks):
            place = (sample * chunks + chunk) * views
            longest = tl.max(tl.load(lengths + place + every, mask=every < views, other=0), axis=0)
            for step in range(longest):
                entry = lists + place * CHUNK + step
                found = visit_for_nan(found, entry, view, views, features, channels, inside)
                if REST > 0:
                    more_found = visit_for_nan(
                        more_found, entry, more_view, views, features, channels, inside
                    )
    finish(best, row, found, begin, count, pooled, rows, view, views, channels, inside)
    if REST > 0:
        finish(
            more_best,
            more_row,
            more_found,
            more_begin,
            count,
            pooled,
            rows,
            more_view,
            views,
            channels,
            inside,
        )


@triton.jit
def gradient_kernel(
    gradient, row, out, count, channels, views, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Some rows and channels of the gradient of one sample's embeddings."""
    sample = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = channel < channels
    gradient += sample * views * channels + channel
    row += sample * views * channels + channel
    total = tl.zeros([ROWS, CHANNELS], tl.float32)
    for view in range(views):
        hit = tl.load(row + view * channels, mask=inside, other=-1).to(tl.int32) == n
        part = tl.load(gradient + view * channels, mask=inside, other=0.0).to(tl.float32)
        total = tl.where(hit, total + part, total)  # the addition itself is predicated
    out += (sample * count + n) * channels + channel
    tl.store(out, total.to(out.dtype.element_ty), mask=inside & (n < count))
