"""The loops of :mod:`models.kernels.cpu`, compiled by numba at the first call of each.

Each works on items ``begin`` to ``end`` of its task and writes into arrays that it is given. Points
are copied to one array an axis, so that a compiler's vector takes neighbours in memory. Distances
and maxima are compared as the bits of floats: those of floats that are not negative ascend with
their value, and minima and maxima of integers are vectorised without leave to reorder sums.
Compiled without fused or reordered arithmetic, all of it agrees with the tensor code to the bit.
"""

from __future__ import annotations

import numpy as np

from models.kernels.compiled import compiled

BLOCK = 64  # points whose distances are found together
STRETCH = 512  # the same for balls, whose distances are not kept
RANKED = 32  # keys compared together
LEAST, MOST = np.int32(-(2**31)), np.int32(2**31 - 1)
LAST_KEY = np.int64(2**63 - 1)


@compiled
def _axes(cloud, axes):
    """Copy a cloud (N, D) to the first N columns of ``axes`` (3, padded N); D at most 3."""
    for point in range(cloud.shape[0]):
        for axis in range(cloud.shape[1]):
            axes[axis, point] = cloud[point, axis]


@compiled
def _distances(axes, x, y, z, begin, distance):
    """Squared distances from (x, y, z) of points begin .. begin + len(distance)."""
    of_x, of_y, of_z = axes[0, begin:], axes[1, begin:], axes[2, begin:]
    for j in range(len(distance)):
        dx, dy, dz = of_x[j] - x, of_y[j] - y, of_z[j] - z
        distance[j] = (dx * dx + dy * dy) + dz * dz


@compiled
def farthest_points(begin, end, points, start, limit, chosen):
    """``points`` (B, N, 3) float32, ``chosen`` (B, m) int64; an item is a cloud.

    Points whose squared norm is ``limit`` or less are not sampled; below 0, all are.
    """
    count = points.shape[1]
    blocks = (count + BLOCK - 1) // BLOCK
    axes = np.zeros((3, blocks * BLOCK), np.float32)
    nearest = np.empty(blocks * BLOCK, np.int32)  # bits of the distance to the chosen ones
    distance = np.empty(blocks * BLOCK, np.float32)
    bits = distance.view(np.int32)
    for cloud in range(begin, end):
        _axes(points[cloud], axes)
        nearest[:count] = MOST
        nearest[count:] = LEAST  # what fills the last block is never the farthest
        if limit >= 0:
            _distances(axes, np.float32(0), np.float32(0), np.float32(0), 0, distance)
            for point in range(count):
                if distance[point] <= limit:
                    nearest[point] = LEAST
        last = np.int64(start)
        chosen[cloud, 0] = last
        for step in range(1, chosen.shape[1]):
            _distances(axes, axes[0, last], axes[1, last], axes[2, last], 0, distance)
            highest, home = LEAST, 0
            for block in range(blocks):
                mine = nearest[block * BLOCK : (block + 1) * BLOCK]
                new = bits[block * BLOCK : (block + 1) * BLOCK]
                most = LEAST
                for j in range(BLOCK):
                    low = min(mine[j], new[j])
                    mine[j] = low
                    most = max(most, low)
                if most > highest:
                    highest, home = most, block
            last = home * BLOCK
            while nearest[last] != highest:
                last += 1
            chosen[cloud, step] = last


@compiled
def balls(begin, end, points, centres, limit, index):
    """``points`` (B, N, 3), ``centres`` (B, S, 3), ``index`` (B, S, k); an item is a centre.

    ``limit`` is the squared radius in float32.
    """
    count, size, k = points.shape[1], centres.shape[1], index.shape[2]
    blocks = (count + STRETCH - 1) // STRETCH
    axes = np.empty((3, blocks * STRETCH), np.float32)
    axes[:, count:] = np.inf  # what fills the last block is in no ball
    inside = np.empty(STRETCH, np.uint8)
    eights = inside.view(np.uint64)  # a ball holds few of all points: most of these are 0
    found = np.empty(k + 8, np.int64)
    here = -1
    for item in range(begin, end):
        cloud, centre = item // size, item % size
        if cloud != here:
            here = cloud
            _axes(points[cloud], axes)
        x, y, z = centres[cloud, centre]
        hits = 0
        for first in range(0, blocks * STRETCH, STRETCH):
            last = first + STRETCH
            of_x, of_y, of_z = axes[0, first:last], axes[1, first:last], axes[2, first:last]
            for j in range(STRETCH):
                dx, dy, dz = of_x[j] - x, of_y[j] - y, of_z[j] - z
                inside[j] = (dx * dx + dy * dy) + dz * dz <= limit
            for eight in range(len(eights)):
                if eights[eight] == 0:
                    continue
                for j in range(8 * eight, 8 * eight + 8):
                    found[hits] = first + j
                    hits += inside[j]
                if hits >= k:
                    break
            if hits >= k:
                break
        if hits == 0:
            found[0] = _nearest(axes, count, x, y, z)
            hits = 1
        row = index[cloud, centre]
        for slot in range(k):
            row[slot] = found[slot] if slot < hits else found[0]


@compiled
def _nearest(axes, count, x, y, z):
    distance = np.empty(count, np.float32)
    _distances(axes, x, y, z, 0, distance)
    least = 0
    for point in range(count):
        if distance[point] < distance[least]:
            least = point
    return least


@compiled
def neighbours(begin, end, points, queries, index):
    """``points`` (B, N, D), ``queries`` (B, S, D), ``index`` (B, S, k); an item is a query."""
    count, size = points.shape[1], queries.shape[1]
    axes = np.zeros((3, count), np.float32)
    query = np.zeros(3, np.float32)
    distance = np.empty(count, np.float32)
    scratch = _scratch(count)
    here = -1
    for item in range(begin, end):
        cloud, row = item // size, item % size
        if cloud != here:
            here = cloud
            _axes(points[cloud], axes)
        for axis in range(queries.shape[2]):
            query[axis] = queries[cloud, row, axis]
        _distances(axes, query[0], query[1], query[2], 0, distance)
        _least(distance, index[cloud, row], scratch)


@compiled
def least_of_rows(begin, end, values, index):
    """``values`` (R, N) float32, ``index`` (R, k) int64; an item is a row."""
    scratch = _scratch(values.shape[1])
    for row in range(begin, end):
        _least(values[row], index[row], scratch)


@compiled
def _scratch(count):
    """Order, its minima by column, keys and copies of values, for rows of ``count`` values."""
    rows = (count + BLOCK - 1) // BLOCK
    order = np.empty(rows * BLOCK, np.int32)
    order[count:] = MOST
    return (
        order,
        np.empty(BLOCK, np.int32),
        np.empty(count + RANKED, np.int64),
        np.empty(count, np.float32),
    )


@compiled
def _least(values, index, scratch):
    """The k = len(``index``) smallest of ``values``, ascending, of equals the first first.

    A bound that at least k values do not exceed is searched by bisection, first among the minima of
    64 columns if k is well below that: few more than k values are below it then. Those are ranked
    by counting which of them come before.
    """
    order, lowest, keys, plain = scratch
    count, k = len(values), len(index)
    for j in range(count):
        plain[j] = values[j] + np.float32(0)  # -0 + 0 is 0
    bits = plain.view(np.int32)
    for j in range(count):
        b = bits[j]
        b ^= (b >> np.int32(31)) & MOST  # as the tensor code: what is negative descends
        order[j] = b if plain[j] == plain[j] else MOST
    taken = 0
    if k <= BLOCK // 2:
        lowest[:] = MOST
        for first in range(0, len(order), BLOCK):
            part = order[first : first + BLOCK]
            for j in range(BLOCK):
                lowest[j] = min(lowest[j], part[j])
        bound = bound_of(lowest, k)
        for column in range(min(BLOCK, count)):
            if lowest[column] <= bound:
                for j in range(column, count, BLOCK):
                    keys[taken] = (np.int64(order[j]) << 32) | j
                    taken += order[j] <= bound
    else:
        bound = bound_of(order, k)
        for j in range(count):
            keys[taken] = (np.int64(order[j]) << 32) | j
            taken += order[j] <= bound
    filled = (taken + RANKED - 1) // RANKED * RANKED
    keys[taken:filled] = LAST_KEY
    some = keys[:filled]
    for key in keys[:taken]:
        rank = 0
        for j in range(len(some)):
            rank += some[j] < key
        if rank < k:
            index[rank] = key & 0xFFFFFFFF


@compiled
def bound_of(order, k):
    """A value that at least ``k`` entries do not exceed, and not many more do not."""
    low, high = np.int64(order.min()), np.int64(order.max())
    while low < high:
        middle = np.int32((low + high) >> 1)
        below = 0
        for j in range(len(order)):
            below += order[j] <= middle
        if below < k:
            low = np.int64(middle) + 1
        else:
            high = np.int64(middle)
            if below <= k + 2:
                break
    return np.int32(high)
