"""Distances between clouds."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def earth_movers_distance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """For the time being: SciPy's exact assignment, on the host, one cloud at a time.

    Args:
        a, b: (B, N, 3).

    Returns:
        The mean distance (B,) under the assignment, differentiable in both, and the assignment
        (B, N) int64: point n of ``a`` is matched to ``b[:, assignment[:, n]]``.
    """
    with torch.no_grad():
        costs = torch.cdist(a.float(), b.float()).cpu().numpy()
        found = [torch.from_numpy(linear_sum_assignment(cost)[1]) for cost in costs]
        assignment = torch.stack(found).to(a.device)
    matched = b.gather(1, assignment.unsqueeze(2).expand(-1, -1, 3))
    return (a - matched).norm(dim=2).mean(dim=1), assignment
