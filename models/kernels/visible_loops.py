"""The loops of the visible maximum and its gradient, compiled by numba; see :mod:`.cpu`.

B samples, M rows, C channels, V views. A sample is worked on in tiles of some channels, a tile in
blocks of some rows, which are copied to a scratch array: rows of the embeddings are often 4096
bytes apart, and then all fall on the same few lines of the cache. The copy of a block, read once
from memory, serves all views. Embeddings, maxima and gradients are float32 or the bits of bfloat16,
see :mod:`.halves`.
"""

from __future__ import annotations

import numpy as np

from models.kernels.compiled import compiled
from models.kernels.halves import narrow, wide
from models.kernels.maxima import raise_to_four

ROWS, LANES = 32, 256  # of a block: 32 KiB


@compiled
def pack(begin, end, visibility, bits):
    """``visibility`` (R, V) bool to the bits of ``bits`` (R,) int32, view 0 the lowest one."""
    for r in range(begin, end):
        packed = np.int32(0)
        for view in range(visibility.shape[1]):
            packed |= np.int32(visibility[r, view]) << np.int32(view)
        bits[r] = packed


@compiled
def visible_maxima(begin, end, features, bits, pooled, row):
    """``features`` (B, M, C) and ``bits`` (B, M) int32 to ``pooled`` (B, V, C), of the type of the
    features, and ``row`` (B, V, C) int16. An item is a tile of a sample.
    """
    count = bits.shape[1]
    views, channels = pooled.shape[1:]
    lanes = min(LANES, (channels + 15) // 16 * 16)
    tiles = (channels + lanes - 1) // lanes
    block = np.zeros((ROWS, lanes), np.float32)
    highest = np.empty((views, lanes), np.float32)
    who = np.empty((views, lanes), np.int32)
    blind = np.empty(views, np.bool_)
    seen = np.empty(ROWS + 3, np.int64)
    for item in range(begin, end):
        sample, tile = item // tiles, item % tiles
        first, last = tile * lanes, min((tile + 1) * lanes, channels)
        highest[:] = -np.inf
        blind[:] = True
        for base in range(0, count, ROWS):
            rows = min(ROWS, count - base)
            broken = 0
            for r in range(rows):
                to, source = block[r, : last - first], features[sample, base + r, first:last]
                for j in range(len(to)):
                    to[j] = wide(source[j])
                for j in range(len(to)):
                    broken += to[j] != to[j]
            for view in range(views):
                hits = 0
                for r in range(rows):
                    seen[hits] = r
                    hits += (bits[sample, base + r] >> view) & 1
                if hits == 0:
                    continue
                if blind[view]:
                    blind[view] = False
                    who[view] = base + seen[0]  # what is -inf throughout belongs to it
                if broken:
                    _raise_with_nan(block, seen[:hits], base, highest[view], who[view])
                else:
                    seen[hits : hits + 3] = seen[hits - 1]  # in fours: a row again changes nothing
                    _raise(block, seen, hits, base, highest[view], who[view])
        for view in range(views):
            for j in range(last - first):
                most = np.float32(0) if blind[view] else highest[view, j]
                pooled[sample, view, first + j] = narrow(most, pooled[sample, view, first + j])
                row[sample, view, first + j] = -1 if blind[view] else who[view, j]


@compiled
def _raise(block, seen, hits, base, highest, who):
    """Raise ``highest`` to the rows ``seen`` of ``block``; ``who`` is from where."""
    for s in range(0, hits, 4):
        row0, row1, row2, row3 = seen[s], seen[s + 1], seen[s + 2], seen[s + 3]
        who0, who1 = np.int32(base + row0), np.int32(base + row1)
        who2, who3 = np.int32(base + row2), np.int32(base + row3)
        rows = block[row0], block[row1], block[row2], block[row3]
        raise_to_four(highest, who, rows, (who0, who1, who2, who3))


@compiled
def _raise_with_nan(block, seen, base, highest, who):
    """The same where a value may not be a number: the first such takes the place for good."""
    for r in seen:
        for j in range(len(highest)):
            x, high = block[r, j], highest[j]
            if x > high or (x != x and high == high):
                highest[j], who[j] = x, base + r


@compiled
def scatter(begin, end, gradient, row, total):
    """``gradient`` and ``row`` (B, V, C) added up in ``total`` (B, M, C), which is zero; an item is
    a sample."""
    views, channels = row.shape[1:]
    for sample in range(begin, end):
        for view in range(views):
            for channel in range(channels):
                to = row[sample, view, channel]
                if to >= 0:
                    total[sample, to, channel] += gradient[sample, view, channel]


@compiled
def scatter_half(begin, end, gradient, row, total):
    """The same for a ``total`` of bfloat16, which is written throughout: the sums are made in
    float32 and rounded once."""
    count, channels = total.shape[1:]
    lanes = min(LANES, channels)
    sums = np.empty((count, lanes), np.float32)
    for sample in range(begin, end):
        for first in range(0, channels, lanes):
            last = min(first + lanes, channels)
            sums[:] = 0
            for view in range(row.shape[1]):
                for channel in range(first, last):
                    to = row[sample, view, channel]
                    if to >= 0:
                        sums[to, channel - first] += wide(gradient[sample, view, channel])
            for r in range(count):
                source, rounded = sums[r, : last - first], total[sample, r, first:last]
                for j in range(len(source)):
                    rounded[j] = narrow(source[j], rounded[j])
