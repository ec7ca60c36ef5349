"""Neighbours, samples, groups and the projection, as PyTorch code in this field usually has them.

B clouds, N points, S queries or centres, C channels. Indices are int64. Distances have the type of
the points: in double precision they are exact enough to be a reference, in float32 they cost and
err as published code does. Which of equal distances comes first is not defined.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distances(queries: Tensor, points: Tensor) -> Tensor:
    """|q|^2 - 2 q.p + |p|^2, squared distances: (B, S, C) and (B, N, C) to (B, S, N)."""
    product = queries @ points.transpose(1, 2)
    of_queries = queries.square().sum(dim=2, keepdim=True)
    return of_queries - 2 * product + points.square().sum(dim=2).unsqueeze(1)


def nearest(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """(B, S, k) indices of the ``k`` nearest of ``points`` to each query, nearest first."""
    return distances(queries, points).topk(k, dim=2, largest=False).indices


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Grouping: (B, N, C) at (B, ...) gives (B, ..., C)."""
    cloud = torch.arange(len(x), device=x.device).view(-1, *[1] * (index.dim() - 1))
    return x[cloud.expand_as(index), index]


def farthest(points: Tensor, count: int, skip: float = -1.0) -> Tensor:
    """(B, count) indices of a farthest-point sample that begins with point 0, one by one.

    Points whose squared norm is ``skip`` or less are not chosen later.
    """
    batch, total, _ = points.shape
    chosen = torch.zeros(batch, count, dtype=torch.int64, device=points.device)
    to_chosen = torch.full((batch, total), torch.inf, dtype=points.dtype, device=points.device)
    to_chosen[points.square().sum(dim=2) <= skip] = -1
    for place in range(1, count):
        last = rows(points, chosen[:, place - 1 : place])  # (B, 1, 3)
        to_last = ((points - last) ** 2).sum(dim=2)
        nearer = to_last < to_chosen
        to_chosen[nearer] = to_last[nearer]
        chosen[:, place] = to_chosen.max(dim=1).indices
    return chosen


def ball(points: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """(B, S, count) indices: the first by index within the radius, the very first as filling.

    Every ball must hold a point, as it does around a centre that is one of them.
    """
    total = points.shape[1]
    index = torch.arange(total, device=points.device).repeat(*centres.shape[:2], 1)  # (B, S, N)
    index[distances(centres, points) > radius**2] = total
    index = index.sort(dim=2).values[..., :count]
    first = index[..., :1].repeat(1, 1, count)
    outside = index == total
    index[outside] = first[outside]
    return index


def interpolate(points: Tensor, known: Tensor, features: Tensor) -> Tensor:
    """Features (B, S, C) at ``known`` (B, S, 3) carried to ``points`` (B, N, 3): (B, N, C).

    The mean of the three nearest, weighted by 1 / (squared distance + 1e-8); S is 3 at least.
    """
    squared, index = distances(points, known).sort(dim=2)
    weight = 1 / (squared[..., :3] + 1e-8)
    weight = weight / weight.sum(dim=2, keepdim=True)
    return (rows(features, index[..., :3]) * weight.unsqueeze(3)).sum(dim=2)


def project(features: Tensor, visibility: Tensor) -> Tensor:
    """PointMCD's pooling by view: repeat, multiply, maximum.

    ``features`` (B, N, C), which must not be negative, and ``visibility`` (B, N, V), of any type,
    give (B, V, C).
    """
    views = visibility.shape[2]
    repeated = features.unsqueeze(1).repeat(1, views, 1, 1)  # (B, V, N, C)
    mask = visibility.transpose(1, 2).unsqueeze(3).to(features.dtype)
    return (repeated * mask).max(dim=2).values
