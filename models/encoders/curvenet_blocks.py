"""The blocks of CurveNet (Xiang et al., "Walk in the Cloud", ICCV 2021), on (B, N, C) features.

Curves are sequences of points found by walking from neighbour to neighbour; they carry shape
information over distances that a neighbourhood does not reach. A block (CIC, curve intervention
convolution) groups points into curves, lets every point attend to them, then aggregates its nearest
neighbours (LPFA, local point feature aggregation).

Sizes in the docstrings: B clouds, N points, C channels, k neighbours, n curves of l steps.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.edges import edge_shares, edge_sum, neighbour_max, neighbour_mean
from models.layers.mlp import LinearNorm
from models.layers.norms import norm_as_affine
from models.layers.pointops import (
    Sampling,
    ball_query,
    full_float32,
    gather_rows,
    knn,
    sample_centres,
)

SLOPE = 0.2  # of every LeakyReLU


class Surroundings:
    """Points and their neighbours in space, found once for all blocks that work on the same points.

    Attributes:
        points: (B, N, 3).
        point_index: (B, N) int64, which input point of the encoder each one is.
        near: (B, N, k) int64, the k nearest, the point itself first.
        ahead: (B, N, k) int64, where a walk may step: the k + 1 nearest without the first.
        sampling: how to find points that are farthest from each other: ``stored`` where the first
            ones are.
    """

    def __init__(
        self, points: Tensor, point_index: Tensor, k: int, sampling: Sampling = "farthest"
    ):
        nearest = knn(points, points, k + 1)
        self.points, self.point_index, self.k = points, point_index, k
        self.sampling = sampling
        self.near = nearest[..., :-1].contiguous()
        self.ahead = nearest[..., 1:].contiguous()

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (6) and covariance (6, 6) of [p_i, p_j] over all edges of ``near``."""
        points, shares = self.points, edge_shares(self.near, self.points)
        own_mean, other_mean = points.mean((0, 1)), (shares * points).sum((0, 1))
        own, other = (points - own_mean).flatten(0, 1), points - other_mean
        around = neighbour_mean(other, self.near).flatten(0, 1)
        other = other.flatten(0, 1) * shares.flatten(0, 1).sqrt()
        with full_float32(points):
            own_own, own_other = own.T @ own / len(own), own.T @ around / len(own)
            other_other = other.T @ other
        upper = torch.cat([own_own, own_other], dim=1)
        lower = torch.cat([own_other.T, other_other], dim=1)
        return torch.cat([own_mean, other_mean]), torch.cat([upper, lower])


def drop_points(
    place: Surroundings, x: Tensor, count: int, radius: float, k: int
) -> tuple[Surroundings, Tensor]:
    """Keep ``count`` farthest points; each takes the maximum over k points of its ball.

    ``x`` (B, N, C) becomes (B, count, C). Sampling starts at point 0. ``k`` is also the number of
    neighbours among the points that are kept.
    """
    kept = sample_centres(place.points, count, place.sampling)  # (B, count)
    centres = gather_rows(place.points, kept)
    ball = ball_query(place.points, centres, radius, k)
    original = place.point_index.gather(1, kept)
    # the farthest-point sample of a farthest-point sample is its beginning
    return Surroundings(centres, original, k, sampling="stored"), neighbour_max(x, ball)


class PositionEdges(nn.Module):
    """BN(W [p_i, p_j, p_j - p_i]) on the edges of a neighbourhood, as a sum of two point terms."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(9, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, place: Surroundings) -> tuple[Tensor, Tensor]:
        """Two tensors (B, N, channels), own and other, for own_i + other_j on edge (i, j).

        The map is linear in the six coordinates z of an edge, A z with A = [W1 - W3, W2 + W3]. So
        its mean and variance over all edges are A mean(z) and diag(A cov(z) A^T), and the
        normalisation is part of the map.
        """
        of_point, of_neighbour, of_step = self.linear.weight.chunk(3, dim=1)
        edge_map = torch.cat([of_point - of_step, of_neighbour + of_step], dim=1)  # (channels, 6)
        moments = None
        if self.norm.training:
            mean, covariance = place.moments
            with full_float32(edge_map):
                moments = edge_map @ mean, (edge_map @ covariance * edge_map).sum(dim=1)
        scale, shift = norm_as_affine(self.norm, moments, place.near.numel())
        own_map, other_map = (scale[:, None] * edge_map).chunk(2, dim=1)
        with full_float32(edge_map):
            return F.linear(place.points, own_map, shift), F.linear(place.points, other_map)


class FirstLPFA(nn.Module):
    """The features a cloud begins with: max_j LeakyReLU(BN(W [p_i, p_j, p_j - p_i]))."""

    def __init__(self, channels: int):
        super().__init__()
        self.position = PositionEdges(channels)

    def forward(self, place: Surroundings) -> Tensor:
        """(B, N, channels)."""
        own, other = self.position(place)
        return F.leaky_relu(own + neighbour_max(other, place.near), SLOPE)


class LPFA(nn.Module):
    """mean_j LeakyReLU(BN(W2 LeakyReLU(x_j - x_i + BN(W1 [p_i, p_j, p_j - p_i])))).

    With ``layers`` above 1, more layers like the one of W2 follow it before the mean.
    """

    def __init__(self, channels: int, layers: int = 1):
        super().__init__()
        self.position = PositionEdges(channels)
        self.mix = LinearNorm(channels, channels, SLOPE)
        self.mix_more = nn.Sequential(
            *(LinearNorm(channels, channels, SLOPE) for _ in range(layers - 1))
        )

    def forward(self, place: Surroundings, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        own, other = self.position(place)
        edges = edge_sum(own - x, other + x, place.near)  # (B, N, k, C)
        edges = self.mix_more(self.mix(F.leaky_relu(edges, SLOPE, inplace=True)))
        return edges.mean(dim=2)


class Walk(nn.Module):
    """Grow curves step by step; the step taken is a hard choice with the gradient of a soft one."""

    def __init__(self, channels: int, steps: int, released_momentum: bool):
        super().__init__()
        self.steps = steps
        self.released_momentum = released_momentum
        self.choose = nn.Linear(2 * channels, 1, bias=False)
        self.choose_norm = nn.BatchNorm1d(1)
        self.blend = LinearNorm(2 * channels, 2)

    def forward(self, x: Tensor, ahead: Tensor, start: Tensor) -> Tensor:
        """Curves (B, n, l, C) through features ``x`` (B, N, C) from points ``start`` (B, n).

        ``ahead`` (B, N, k) lists the points that can be reached from each point. The start itself
        is not part of its curve.
        """
        of_candidate, of_curve = self.choose.weight.chunk(2, dim=1)
        scores = F.linear(x, of_candidate)  # (B, N, 1), once per point instead of per candidate
        here = start
        current = descriptor = gather_rows(x, start)  # (B, n, C)
        visited = []
        for step in range(self.steps):
            candidates = gather_rows(ahead, here)  # (B, n, k)
            features = gather_rows(x, candidates)  # (B, n, k, C)
            if step > 0:
                descriptor = self.update(current, descriptor)
            logits = gather_rows(scores, candidates).squeeze(3) + F.linear(descriptor, of_curve)
            logits = self.choose_norm(logits.view(-1, 1)).view_as(candidates)
            if step > 0:
                logits = logits * keep_ahead(current, descriptor, features)
            soft = logits.softmax(dim=2)
            chosen, here = self.pick(soft, candidates)
            hard = torch.zeros_like(soft).scatter_(2, chosen, 1.0)
            taken = hard + (soft - soft.detach())
            current = (taken.unsqueeze(2) @ features).squeeze(2)
            visited.append(current)
        return torch.stack(visited, dim=2)

    @staticmethod
    def pick(soft: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest of ``candidates``, the nearest of equal ones, both (B, n, k): its place
        among them, (B, n, 1), and the point that it is, (B, n)."""
        chosen = soft.argmax(dim=2, keepdim=True)
        return chosen, candidates.gather(2, chosen).squeeze(2)

    def update(self, current: Tensor, descriptor: Tensor) -> Tensor:
        """Dynamic momentum: a1 current + a2 descriptor, the pair (a1, a2) of each curve a softmax.

        paper: the pair of a curve weighs that curve.
        here: so too, unless ``released_momentum`` is set for weights that the authors published.
        Their code reads the table of all pairs, stored (2, n), as if it were stored (n, 2), and
        their weights are right only together with that.
        """
        pairs = self.blend(torch.cat([current, descriptor], dim=2)).softmax(dim=2)  # (B, n, 2)
        if self.released_momentum:
            pairs = pairs.transpose(1, 2).reshape(pairs.shape)
        return pairs[..., :1] * current + pairs[..., 1:] * descriptor


@torch.no_grad()
def keep_ahead(current: Tensor, descriptor: Tensor, features: Tensor) -> Tensor:
    """Crossover suppression: a factor in [0, 1] per candidate, below 1 where the curve turns back.

    It is 1 + cos, limited to [0, 1], of the angle in feature space between the way come,
    current - descriptor (B, n, C), and the way to go, features - current, for ``features``
    (B, n, k, C); returns (B, n, k).
    """
    come = current - descriptor
    go = features - current.unsqueeze(2)
    dot = (go @ come.unsqueeze(3)).squeeze(3)
    lengths = come.norm(dim=2, keepdim=True) * go.norm(dim=3)
    return (1 + dot / lengths.clamp_min(1e-8)).clamp(0, 1)
