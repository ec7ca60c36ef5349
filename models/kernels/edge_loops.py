"""The loops over the edges of a neighbour graph, compiled by numba; see :mod:`.cpu`.

B clouds, N points, C channels, S rows of k neighbours each: ``index`` (B, S, k) int64 below N.
"""

from __future__ import annotations

import numpy as np

from models.kernels.compiled import compiled
from models.kernels.maxima import raise_to_four


@compiled
def highest_neighbours(begin, end, values, index, highest, winner):
    """``values`` (B, N, C) and ``index`` to ``highest`` and ``winner`` (B, S, C), the second int32.

    An item is a row. Of equal neighbours the first is the winner.
    """
    size, k = index.shape[1:]
    for item in range(begin, end):
        cloud, row = item // size, item % size
        near = index[cloud, row]
        best, who = highest[cloud, row], winner[cloud, row]
        first = values[cloud, near[0]]
        for c in range(len(best)):  # to assign slices would compile a message about their shapes
            best[c], who[c] = first[c], near[0]
        for j in range(1, k, 4):
            who0, who1 = np.int32(near[j]), np.int32(near[min(j + 1, k - 1)])
            who2, who3 = np.int32(near[min(j + 2, k - 1)]), np.int32(near[min(j + 3, k - 1)])
            x0, x1 = values[cloud, who0], values[cloud, who1]
            x2, x3 = values[cloud, who2], values[cloud, who3]
            raise_to_four(best, who, (x0, x1, x2, x3), (who0, who1, who2, who3))


@compiled
def mean_neighbours(begin, end, values, index, mean):
    """``values`` (B, N, C) and ``index`` to ``mean`` (B, S, C); an item is a row."""
    size, k = index.shape[1:]
    for item in range(begin, end):
        cloud, row = item // size, item % size
        to = mean[cloud, row]
        first = values[cloud, index[cloud, row, 0]]
        for c in range(len(to)):
            to[c] = first[c]
        for j in range(1, k):
            source = values[cloud, index[cloud, row, j]]
            for c in range(len(to)):
                to[c] += source[c]
        for c in range(len(to)):
            to[c] /= np.float32(k)


@compiled
def scatter_to_neighbours(begin, end, gradient, index, total):
    """A k-th of ``gradient`` (B, S, C) added to each neighbour's row of ``total`` (B, N, C), which
    is zero; an item is a cloud."""
    size, k = index.shape[1:]
    part = np.empty(gradient.shape[2], np.float32)
    for cloud in range(begin, end):
        for row in range(size):
            for c in range(len(part)):
                part[c] = gradient[cloud, row, c] / np.float32(k)
            for j in range(k):
                to = total[cloud, index[cloud, row, j]]
                for c in range(len(part)):
                    to[c] += part[c]
