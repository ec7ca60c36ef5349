"""The kernels for CPU tensors: loops that numba compiles, over as many threads as PyTorch may use.

The same functions as :mod:`models.kernels.plain`, which says what they return, and the same results
to the bit; only sums of gradients may differ in rounding. Tensors are contiguous, positions,
distances and what edges carry float32.

Large results are made in memory from NumPy, which comes in huge pages. Of PyTorch's, every page of
4 KiB is asked for and cleared by itself when first touched, several times the cost of all the rest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.kernels import edge_loops, matching_loops, plain, point_loops, visible_loops
from models.kernels.choice import NUMBA_TYPES
from models.kernels.halves import elements
from models.kernels.plain_matching import FALL, SHARE, settle
from models.kernels.threads import in_shares


def farthest_point_sample(points: Tensor, m: int, start: int, skip_origin: bool = False) -> Tensor:
    batch, count, _ = points.shape
    chosen = torch.empty(batch, m, dtype=torch.int64)
    nearest = np.float32(plain.ORIGIN if skip_origin else -1)
    arrays = points.numpy(), start, nearest, chosen.numpy()
    in_shares(point_loops.farthest_points, batch, m * count, *arrays)
    return chosen


def ball_query(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    batch, size, _ = centres.shape
    index = torch.empty(batch, size, k, dtype=torch.int64)
    arrays = points.numpy(), centres.numpy(), np.float32(radius**2), index.numpy()
    in_shares(point_loops.balls, batch * size, points.shape[1], *arrays)
    return index


def knn(points: Tensor, queries: Tensor, k: int) -> Tensor:
    batch, size, _ = queries.shape
    index = torch.empty(batch, size, k, dtype=torch.int64)
    arrays = points.numpy(), queries.numpy(), index.numpy()
    in_shares(point_loops.neighbours, batch * size, 4 * points.shape[1], *arrays)
    return index


def smallest(values: Tensor, k: int) -> Tensor:
    batch, size, count = values.shape
    index = torch.empty(batch, size, k, dtype=torch.int64)
    arrays = values.view(-1, count).numpy(), index.view(-1, k).numpy()
    in_shares(point_loops.least_of_rows, batch * size, 4 * count, *arrays)
    return index


def match(a: Tensor, b: Tensor) -> Tensor:
    batch, count, _ = a.shape
    matched = torch.empty(batch, count, dtype=torch.int64)
    arrays = [x.numpy() for x in settle(a, b)]
    cost = 20 * count * count
    in_shares(matching_loops.match, batch, cost, *arrays, SHARE, FALL, matched.numpy())
    return matched


def pack_views(visibility: Tensor) -> Tensor:
    batch, count, _ = visibility.shape
    bits = torch.empty(batch, count, dtype=torch.int32)
    arrays = visibility.flatten(0, 1).numpy(), bits.view(-1).numpy()
    in_shares(visible_loops.pack, batch * count, visibility.shape[2], *arrays)
    return bits


def visible_max(features: Tensor, bits: Tensor, views: int) -> tuple[Tensor, Tensor]:
    batch, count, channels = features.shape
    exact = features if features.dtype in NUMBA_TYPES else features.float()
    pooled = exact.new_empty(batch, views, channels)
    row = torch.empty(batch, views, channels, dtype=torch.int16)
    arrays = elements(exact), bits.numpy(), elements(pooled), row.numpy()
    tiles = -(-channels // visible_loops.LANES)
    cost = views * count * channels // tiles // 8
    in_shares(visible_loops.visible_maxima, batch * tiles, cost, *arrays)
    return pooled.to(features.dtype), row


def visible_max_backward(gradient: Tensor, row: Tensor, count: int) -> Tensor:
    shape = (len(gradient), count, gradient.shape[2])
    cost = count * gradient.shape[2] // 4
    if gradient.dtype is torch.bfloat16:
        half = np.empty(shape, np.uint16)
        arrays = elements(gradient), row.numpy(), half
        in_shares(visible_loops.scatter_half, len(half), cost, *arrays)
        return torch.from_numpy(half.view(np.int16)).view(torch.bfloat16)
    total = np.zeros(shape, np.float32)
    arrays = gradient.float().numpy(), row.numpy(), total
    in_shares(visible_loops.scatter, len(total), cost, *arrays)
    return torch.from_numpy(total).to(gradient.dtype)


def neighbour_max(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    batch, size, k = index.shape
    highest = torch.empty(batch, size, values.shape[2])
    winner = torch.empty(highest.shape, dtype=torch.int32)
    arrays = values.numpy(), index.numpy(), highest.numpy(), winner.numpy()
    cost = k * values.shape[2] // 4
    in_shares(edge_loops.highest_neighbours, batch * size, cost, *arrays)
    return highest, winner


def neighbour_max_backward(gradient: Tensor, winner: Tensor, count: int) -> Tensor:
    total = np.zeros((len(gradient), count, gradient.shape[2]), np.float32)
    cost = gradient[0].numel() + total[0].size // 8
    in_shares(visible_loops.scatter, len(total), cost, gradient.numpy(), winner.numpy(), total)
    return torch.from_numpy(total)


def neighbour_mean(values: Tensor, index: Tensor) -> Tensor:
    batch, size, k = index.shape
    mean = torch.empty(batch, size, values.shape[2])
    arrays = values.numpy(), index.numpy(), mean.numpy()
    in_shares(edge_loops.mean_neighbours, batch * size, k * values.shape[2] // 4, *arrays)
    return mean


def neighbour_mean_backward(gradient: Tensor, index: Tensor, count: int) -> Tensor:
    total = np.zeros((len(gradient), count, gradient.shape[2]), np.float32)
    arrays = gradient.numpy(), index.numpy(), total
    cost = gradient[0].numel() * index.shape[2] // 4
    in_shares(edge_loops.scatter_to_neighbours, len(total), cost, *arrays)
    return torch.from_numpy(total)
