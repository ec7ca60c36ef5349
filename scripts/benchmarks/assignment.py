"""The earth mover's distance of pairs of clouds, against the best matching by SciPy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from models.losses import earth_movers_distance
from scripts.benchmarks.contest import Contest, Sizes, expect
from scripts.benchmarks.inputs import clouds

JITTER = 0.02
WORKERS = 2  # SciPy releases Python's lock, so threads serve it as well as processes
ALLOWED, OF_DIAGONAL = 0.01, 1e-4


def contests(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], Contest]]:
    kinds = {"unrelated": unrelated, "resampled": resampled, "jittered": jittered}
    return {
        f"earth mover's distance, {name}": partial(distances, make, sizes, device)
        for name, make in kinds.items()
    }


def unrelated(a: Tensor) -> Tensor:
    return a.roll(1, dims=0)


def resampled(a: Tensor) -> Tensor:
    """Other points of the same surfaces."""
    return clouds(*a.shape[:2], a.device, redrawn=True)


def jittered(a: Tensor) -> Tensor:
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    return a + JITTER * noise.to(a.device)


def distances(make: Callable[[Tensor], Tensor], sizes: Sizes, device: torch.device) -> Contest:
    """Two pairs for each cloud of ``sizes``, in no order."""
    batch, count = 2 * sizes.clouds[0], sizes.clouds[1]
    a = clouds(batch, count, device)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(2))
    b = make(a)[:, order.to(device)].contiguous()
    published, ours = partial(exact, a, b), partial(earth_movers_distance, a, b)

    def check() -> None:
        distance, assignment = ours()
        best = published()
        diagonal = torch.minimum(*[(x.amax(dim=1) - x.amin(dim=1)).norm(dim=1) for x in (a, b)])
        most = best + torch.maximum(ALLOWED * best, OF_DIAGONAL * diagonal)
        once = (assignment.sort(dim=1).values == torch.arange(count, device=device)).all()
        passed = bool(once & (distance <= most).all() & (distance >= (1 - 1e-4) * best).all())
        expect(passed, "earth mover's distance", "by more than 1 %")

    forms = {"published": published, "ours": ours}
    return Contest(f"B={batch} N={count}", forms, check, batch)


def exact(a: Tensor, b: Tensor) -> Tensor:
    """(B,) mean distance under the best matching, ``WORKERS`` pairs at a time."""
    with ThreadPoolExecutor(min(WORKERS, torch.get_num_threads())) as pool:
        means = list(pool.map(_exact, a.cpu().numpy(), b.cpu().numpy()))
    return torch.tensor(means, dtype=torch.float32, device=a.device)


def _exact(a: np.ndarray, b: np.ndarray) -> float:
    apart = cdist(a, b)
    return apart[linear_sum_assignment(apart)].mean()
