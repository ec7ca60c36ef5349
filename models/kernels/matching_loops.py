"""The loops of the one-to-one matching of two clouds, compiled by numba: one auction for each pair.

It is that of :mod:`models.kernels.plain_matching`, one bid after the other, the loser's next.
Prices only rise, so a point that has once seen all prices keeps the few least sums as candidates,
and a bound of the others that holds for ever: most bids look at the candidates alone.
"""

from __future__ import annotations

import numpy as np

from models.kernels.compiled import compiled
from models.kernels.point_loops import MOST, bound_of

BLOCK = 64  # columns of the search for candidates
CANDIDATES = 16  # of each point
ONE_GO = 3  # bids a point: the first phase, for clouds that nearly fit, has no more
INFINITE = np.float32(np.inf)


@compiled
def match(begin, end, a, b, limits, share, fall, matched):
    """``a``, ``b`` (B, N, 3) and ``limits`` (B, 2) float32 are those of
    :func:`models.kernels.plain_matching.settle`, ``matched`` is (B, N) int64; an item is a pair.

    ``share`` and ``fall`` are arguments: what is kept on disk would not notice that they change.
    """
    count = a.shape[1]
    width = (count + BLOCK - 1) // BLOCK * BLOCK
    market = (
        np.zeros((3, width), np.float32),  # points of b, one array an axis
        np.full(width, INFINITE),  # their prices; what fills the last block is never bought
        np.empty(width, np.float32),  # what a point of a would pay: distance and price
        np.empty(BLOCK, np.int32),
    )
    book = (
        np.empty((count, CANDIDATES), np.int32),  # of each point of a
        np.empty((count, CANDIDATES), np.float32),  # their distances
        np.empty(count, np.float32),  # what no other point costs less than
        np.empty(count, np.int32),  # who owns each point of b
        np.empty(count, np.int32),  # who bids
    )
    for pair in range(begin, end):
        points, mine = a[pair], matched[pair]
        floor, first = limits[pair]
        for axis in range(3):
            market[0][axis, :count] = b[pair, :, axis]
        market[1][:count] = 0
        low = _open(points, market, book)  # the optimum is not below
        epsilon = max(share * low, floor)
        if not _auction(points, market, book, mine, epsilon, ONE_GO * count):
            epsilon = first
            _auction(points, market, book, mine, epsilon, -1)
        while True:
            low = max(low, _mean_distance(points, market[0], mine) - epsilon)
            wanted = max(share * low, floor)
            if epsilon <= wanted:
                break
            epsilon = max(epsilon / fall, wanted)
            _auction(points, market, book, mine, epsilon, -1)


@compiled
def _open(points, market, book):
    """The candidates of all points while all prices are 0; the mean distance to the nearest."""
    who, distance, bound = book[:3]
    total = 0.0
    for i in range(len(points)):
        bound[i] = _look(points[i], market, who[i], distance[i])
        total += distance[i].min()
    return np.float32(total / len(points))


@compiled
def _auction(points, market, book, mine, epsilon, most):
    """A phase: all are without a point of ``b``, and bid until they all have one.

    Returns whether that took no more than ``most`` bids; if it is negative, any number will do.
    """
    who, distance, bound, owner, bidders = book
    price = market[1]
    waiting = len(points)
    for i in range(waiting):
        owner[i], bidders[i] = -1, i
    while waiting > 0:
        if most == 0:
            return False
        most -= 1
        waiting -= 1
        i = bidders[waiting]
        least, second, wanted = _least_two(who[i], distance[i], price)
        if second > bound[i]:
            bound[i] = _look(points[i], market, who[i], distance[i])
            least, second, wanted = _least_two(who[i], distance[i], price)
        price[wanted] += max(min(second, bound[i]) - least, np.float32(0)) + epsilon
        loser = owner[wanted]
        owner[wanted], mine[i] = i, wanted
        if loser >= 0:
            bidders[waiting] = loser
            waiting += 1
    return True


@compiled
def _least_two(who, distance, price):
    """The two least sums of distance and price among candidates, and whose the first is."""
    least, second, wanted = INFINITE, INFINITE, who[0]
    for k in range(len(who)):
        total = distance[k] + price[who[k]]
        if total < least:
            least, second, wanted = total, least, who[k]
        elif total < second:
            second = total
    return least, second, wanted


@compiled
def _look(point, market, who, distance):
    """Fill in the candidates of a point; what no other point of ``b`` costs less than."""
    axes, price, total, lowest = market
    x, y, z = point[0], point[1], point[2]
    of_x, of_y, of_z = axes[0], axes[1], axes[2]
    for j in range(len(total)):
        dx, dy, dz = of_x[j] - x, of_y[j] - y, of_z[j] - z
        total[j] = np.sqrt((dx * dx + dy * dy) + dz * dz) + price[j]
    bits = total.view(np.int32)
    lowest[:] = MOST
    for first in range(0, len(bits), BLOCK):
        part = bits[first : first + BLOCK]
        for j in range(BLOCK):
            lowest[j] = min(lowest[j], part[j])
    columns = min(BLOCK, len(price))
    while price[columns - 1] == INFINITE:
        columns -= 1
    limit = bound_of(lowest[:columns], min(CANDIDATES // 2, columns))
    taken = 0
    for column in range(columns):
        if lowest[column] > limit:
            continue
        for j in range(column, len(bits), BLOCK):
            if bits[j] <= limit:
                if taken == CANDIDATES:
                    return _look_again(total, price, who, distance)
                who[taken], distance[taken] = j, total[j] - price[j]
                taken += 1
    who[taken:], distance[taken:] = who[0], INFINITE
    lowest[0] = limit
    return lowest.view(np.float32)[0]


@compiled
def _look_again(total, price, who, distance):
    """The same where too many points cost nearly the same: the best two are the candidates."""
    who[0], who[1] = 0, 1
    if total[1] < total[0]:
        who[0], who[1] = 1, 0
    for j in range(2, len(total)):
        if total[j] < total[who[1]]:
            who[1] = j
            if total[j] < total[who[0]]:
                who[0], who[1] = j, who[0]
    for k in range(2):
        distance[k] = total[who[k]] - price[who[k]]
    who[2:], distance[2:] = who[0], INFINITE
    return total[who[1]]


@compiled
def _mean_distance(points, axes, mine):
    total = 0.0
    for i in range(len(points)):
        j = mine[i]
        dx, dy, dz = axes[0, j] - points[i, 0], axes[1, j] - points[i, 1], axes[2, j] - points[i, 2]
        total += np.sqrt((dx * dx + dy * dy) + dz * dz)
    return np.float32(total / len(points))
