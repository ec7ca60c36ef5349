"""Neighbours and samples of the published networks, as loops and full distance matrices."""

import torch


def distances(queries, points):
    """Squared distances in double precision: (B, S, C) and (B, N, C) to (B, S, N)."""
    return (queries.double().unsqueeze(2) - points.double().unsqueeze(1)).square().sum(dim=3)


def nearest(queries, points, k):
    """(B, S, k) indices, nearest first; a query that is one of the points finds itself."""
    return distances(queries, points).topk(k, dim=2, largest=False).indices


def rows(x, index):
    """(B, N, C) at (B, S, ...) gives (B, S, ..., C)."""
    return torch.stack([cloud[at] for cloud, at in zip(x, index, strict=True)])


def farthest(points, count):
    """(B, count) indices, beginning with point 0."""
    chosen = [torch.zeros(len(points), dtype=torch.int64)]
    to_chosen = torch.full(points.shape[:2], torch.inf, dtype=torch.float64)
    while len(chosen) < count:
        last = rows(points, chosen[-1].unsqueeze(1))  # (B, 1, 3)
        to_chosen = torch.minimum(to_chosen, distances(last, points).squeeze(1))
        chosen.append(to_chosen.argmax(dim=1))
    return torch.stack(chosen, dim=1)


def ball(points, centres, radius, count):
    """(B, S, count) indices: the first by index within the radius, the very first as filling."""
    far = distances(centres, points) > radius**2  # (B, S, N)
    index = torch.arange(points.shape[1]).expand_as(far).masked_fill(far, points.shape[1])
    index = index.sort(dim=2).values[..., :count]
    return torch.where(index == points.shape[1], index[..., :1], index)
