"""Losses between clouds, which know neither networks nor recipes."""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels import ops


def earth_movers_distance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance between the points of two clouds under a near-optimal one-to-one matching.

    It exceeds the optimum by at most 1 % of it, or 1e-4 of the diagonal of the smaller bounding box
    if that is more; by about 0.1 % in practice. Nothing waits for the device. Therefore clouds that
    are not finite are refused on a CPU alone; elsewhere their distance is NaN, and the matching
    still one-to-one.

    Args:
        a, b: (B, N, 3) floating point, N at least 1; distances are in their units.

    Returns:
        distance (B,), in float32 at least. Its gradient flows to both clouds through the distances,
            none through the matching; points that coincide get a gradient of zero.
        assignment (B, N) int64: point n of ``a`` belongs to ``b[:, assignment[:, n]]``.

    Raises:
        ValueError: if the shapes, types or devices are others.
        RunError: on a CPU, if a coordinate is not finite.
    """
    _check(a, b)
    exact = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(exact), b.to(exact)
    assignment = ops.match(a.detach().float(), b.detach().float())
    other = b.gather(1, assignment.unsqueeze(2).expand(-1, -1, 3))
    return torch.linalg.vector_norm(a - other, dim=2).mean(dim=1), assignment


def _check(a: Tensor, b: Tensor) -> None:
    """Refuse what the kernels, which read memory directly, would take for something else."""
    of_a, of_b = tuple(a.shape), tuple(b.shape)
    if of_a != of_b or len(of_a) != 3 or of_a[2] != 3 or of_a[1] < 1:
        raise ValueError(
            f"expected two clouds (B, N, 3) of the same shape, found {of_a} and {of_b}"
        )
    if not (a.is_floating_point() and b.is_floating_point()) or a.device != b.device:
        raise ValueError(
            f"expected two clouds of floating point on one device, found {a.dtype} on {a.device} "
            f"and {b.dtype} on {b.device}"
        )
