"""Batch normalisation with a leaky ReLU, and their maximum over groups of rows, as few passes over
memory as there can be; compiled by numba, see :mod:`models.layers.norms`.

R rows of C channels, or G groups of k rows. Rows are float32 or the bits of bfloat16 (uint16);
everything else is float32. An item is a run of ``RUN`` rows, or of the groups that make up about as
many: however many threads share the items, the same sums are made in the same order.
"""

from __future__ import annotations

import numpy as np

from models.kernels.compiled import compiled
from models.kernels.halves import narrow, wide

RUN = 1024
BLOCK = 64  # rows whose sums are made in float32, before they are added up in float64


@compiled
def moments(begin, end, rows, pivot, sums, squares):
    """Sums of x - ``pivot`` (C,) and of its square, for every item: twice (items, C) float64."""
    count, channels = rows.shape
    total, square = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for item in range(begin, end):
        sums[item], squares[item] = 0, 0
        last = min((item + 1) * RUN, count)
        for base in range(item * RUN, last, BLOCK):
            total[:], square[:] = 0, 0
            for r in range(base, min(base + BLOCK, last)):
                for c in range(channels):
                    x = wide(rows[r, c]) - pivot[c]
                    total[c] += x
                    square[c] += x * x
            for c in range(channels):
                sums[item, c] += total[c]
                squares[item, c] += square[c]


@compiled
def activate(begin, end, rows, scale, shift, slope, out):
    """z = x ``scale`` + ``shift``, and z or ``slope`` z where that is negative."""
    count, channels = rows.shape
    for r in range(begin * RUN, min(end * RUN, count)):
        for c in range(channels):
            z = wide(rows[r, c]) * scale[c] + shift[c]
            out[r, c] = narrow(z if z > 0 else (z * slope if z <= 0 else z), out[r, c])


@compiled
def activate_sums(begin, end, rows, gradient, scale, shift, slope, mean, sums, dots):
    """Sums of the gradient g of z and of g (x - ``mean``), for every item: (items, C) f64."""
    count, channels = rows.shape
    total, dot = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for item in range(begin, end):
        sums[item], dots[item] = 0, 0
        last = min((item + 1) * RUN, count)
        for base in range(item * RUN, last, BLOCK):
            total[:], dot[:] = 0, 0
            for r in range(base, min(base + BLOCK, last)):
                for c in range(channels):
                    x, g = wide(rows[r, c]), wide(gradient[r, c])
                    g = g if x * scale[c] + shift[c] > 0 else g * slope
                    total[c] += g
                    dot[c] += g * (x - mean[c])
            for c in range(channels):
                sums[item, c] += total[c]
                dots[item, c] += dot[c]


@compiled
def activate_backward(begin, end, rows, gradient, scale, shift, slope, constant, linear, out):
    """``scale`` g + ``constant`` + ``linear`` x: the gradient of the rows."""
    count, channels = rows.shape
    for r in range(begin * RUN, min(end * RUN, count)):
        for c in range(channels):
            x, g = wide(rows[r, c]), wide(gradient[r, c])
            g = g if x * scale[c] + shift[c] > 0 else g * slope
            out[r, c] = narrow(scale[c] * g + constant[c] + linear[c] * x, out[r, c])


@compiled
def pool(begin, end, groups, share, sign, pivot, highest, who, sums, squares):
    """Of each group the x with the largest x ``sign`` (C,), the first of equal ones, and its row:
    ``highest`` and ``who`` (G, C) float32 and int32; and the sums of :func:`moments`.

    An item is ``share`` groups. What is no number is larger than all others, as in PyTorch.
    """
    size, channels = groups.shape[1:]
    total, square = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for item in range(begin, end):
        sums[item], squares[item] = 0, 0
        for g in range(item * share, min((item + 1) * share, len(groups))):
            best, place = highest[g], who[g]
            for base in range(0, size, BLOCK):
                total[:], square[:] = 0, 0
                for r in range(base, min(base + BLOCK, size)):
                    for c in range(channels):
                        x = wide(groups[g, r, c])
                        first = r == 0
                        larger = first or x * sign[c] > best[c] * sign[c] or x != x
                        larger = larger and (first or best[c] == best[c])
                        best[c] = x if larger else best[c]
                        place[c] = r if larger else place[c]
                        x = x - pivot[c]
                        total[c] += x
                        square[c] += x * x
                for c in range(channels):
                    sums[item, c] += total[c]
                    squares[item, c] += square[c]


@compiled
def pool_backward(begin, end, groups, share, who, gradient, constant, linear, out):
    """``constant`` + ``linear`` x for every row, ``gradient`` (G, C) more for the chosen one."""
    size, channels = groups.shape[1:]
    for g in range(begin * share, min(end * share, len(groups))):
        for r in range(size):
            for c in range(channels):
                more = gradient[g, c] if who[g, c] == r else np.float32(0)
                value = constant[c] + linear[c] * wide(groups[g, r, c]) + more
                out[g, r, c] = narrow(value, out[g, r, c])
