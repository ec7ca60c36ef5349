"""Edge features of a neighbour graph, without building them.

A graph on N points gives each point i its k neighbours j, ``index[b, i, :]``. The networks here
(DGCNN's EdgeConv, CurveNet's LPFA) begin with a linear map of an edge, and such a map splits into a
part of the point and a part of its neighbour,

    e_ij = own_i + other_j,

both computed once per point, k times fewer rows than edges. What follows on the edges is batch
normalisation, a rising activation and a maximum over j. Normalisation is affine per channel once
its mean and variance over all edges are known, so it splits as well; the maximum then moves past
everything that belongs to i:

    max_j act(own_i + other_j) = act(own_i + max_j other_j).

All of it is exact: in training mode too, since the moments of a sum over edges follow from sums
over points. The (B, N, k, C) tensor is never made, unless a second layer reads it
(:func:`edge_sum`, :func:`edge_norm_relu`). The tests hold the plain form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import ops
from models.layers.norms import norm_as_affine
from models.layers.pointops import gather_rows


def neighbour_max(values: Tensor, index: Tensor) -> Tensor:
    """Channel-wise maximum over each point's neighbours.

    ``values`` (B, N, C), ``index`` (B, S, k) int64 into N; returns (B, S, C). The gradient of each
    maximum goes to one neighbour, the first in ``index`` that attains it.
    """
    return ops.neighbour_max(full_precision(values), index)[0]


def neighbour_mean(values: Tensor, index: Tensor) -> Tensor:
    """Mean over each point's neighbours: (B, N, C) and (B, S, k) into N give (B, S, C)."""
    return ops.neighbour_mean(full_precision(values), index)


def edge_sum(own: Tensor, other: Tensor, index: Tensor) -> Tensor:
    """own_i + other_j on every edge: (B, N, C) twice and ``index`` (B, N, k) give (B, N, k, C).

    The two may be large beside their sum, so they are added in their own type; the sum then takes
    the type that autocast wants for the layer that follows, and nothing wider is kept for backward.
    """
    edges = gather_rows(other, index).add_(own.unsqueeze(2))
    device = edges.device.type
    return (
        edges.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else edges
    )


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32 at least: what autocast left in half precision is raised, for exact sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def edge_shares(index: Tensor, values: Tensor) -> Tensor:
    """Which share of all edges ends in each point: (B, N, 1), of the type of ``values`` (B, N, C).

    Weighted with it, a sum over points is a mean over the far ends of the edges (B, S, k).
    """
    ends = index.flatten(1)
    # whole numbers far below 2^24: their sum in floating point is exact in any order
    counts = values.new_zeros(values.shape[:2])
    counts.scatter_add_(1, ends, torch.ones_like(ends, dtype=values.dtype))
    return counts.unsqueeze(2) / index.numel()


def edge_moments(own: Tensor, other: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of own_i + other_j over all edges of all clouds, each (C,).

    With o_i and p_j the deviations of the two parts from their means over edges and q_i the mean
    of p_j over the neighbours of i, the variance is  E_i[o_i (o_i + 2 q_i)] + E_edges[p_j^2].
    ``own`` and ``other`` are (B, N, C), ``index`` is (B, N, k).
    """
    shares = edge_shares(index, other)
    own_mean, other_mean = own.mean((0, 1)), (shares * other).sum((0, 1))
    own, other = own - own_mean, other - other_mean
    around = neighbour_mean(other, index)
    variance = (own * (own + 2 * around)).mean((0, 1)) + (shares * other.square()).sum((0, 1))
    return own_mean + other_mean, variance


def edge_norm_relu(norm: nn.BatchNorm1d, own: Tensor, other: Tensor, index: Tensor) -> Tensor:
    """relu(BN(own_i + other_j)) on every edge, for a second layer: (B, S, k, C).

    ``own`` (B, S, C) and ``other`` (B, N, C) of at least float32, ``index`` (B, S, k) int64 into N.
    Normalised before the edges are built, so that they are written once.
    """
    moments = edge_moments(own, other, index) if norm.training else None
    scale, shift = norm_as_affine(norm, moments, index.numel())
    edges = edge_sum(torch.addcmul(shift, own, scale), other * scale, index)
    return F.relu(edges, inplace=True)


def edge_deviation(own: Tensor, other: Tensor, index: Tensor) -> Tensor:
    """Standard deviation (unbiased) of other_j - own_i over all edges and channels of each cloud.

    ``own`` (B, S, C), ``other`` (B, N, C) and ``index`` (B, S, k) give (B, 1, 1), at least 1e-6,
    where it has no gradient. The edges are not built, as in :func:`edge_moments`. The sums, whose
    difference is small beside either, are taken in double precision.
    """
    batch, count, channels = own.shape
    shared = other.mean(dim=1, keepdim=True)
    own, other = own - shared, other - shared
    around = neighbour_mean(other, index)
    of_ends = (batch * edge_shares(index, other) * other.square()).sum((1, 2), dtype=torch.float64)
    of_own = (own * (own - 2 * around)).sum((1, 2), dtype=torch.float64)
    square = (of_ends + of_own / count) / channels
    mean = (around - own).mean((1, 2), dtype=torch.float64)
    size = count * index.shape[2] * channels
    variance = (square - mean.square()) * (size / (size - 1))
    return variance.clamp_min(1e-12).sqrt().to(other.dtype).view(batch, 1, 1)
