"""Random changes of training samples, a whole batch at once, on the device where the batch lies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data.rng import sample_keys, uniform
from utils.settings import PointAugmentation, ViewAugmentation

Batch = dict[str, Tensor]


def _between(unit: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * unit


def augment_points(batch: Batch, settings: PointAugmentation, seed: int, epoch: int) -> Batch:
    """Scale, shift and thin out clouds.

    Args:
        batch: ``points`` (B, N, 3) float32, ``index`` (B,) int64 and, if there, ``visibility``
            (B, N, V) and ``parts`` (B, N). Row n of these goes on describing point n.

    Returns:
        The batch with the changed fields replaced.
    """
    points, index = batch["points"], batch["index"]
    keys = sample_keys(seed, epoch, index)
    changed = dict(batch)
    if settings.dropout > 0:
        changed |= _drop_points(changed, keys, settings.dropout)
        points = changed["points"]
    if settings.scale != (1.0, 1.0):
        factors = _between(
            uniform(keys, 3 if settings.anisotropic else 1, stream=1), *settings.scale
        )
        points = points * factors.unsqueeze(1)  # (B, 1, 3) or (B, 1, 1)
    if settings.shift > 0:
        offsets = _between(uniform(keys, 3, stream=2), -settings.shift, settings.shift)
        points = points + offsets.unsqueeze(1)
    changed["points"] = points
    return changed


def _drop_points(batch: Batch, keys: Tensor, largest_ratio: float) -> Batch:
    """Replace a random part of the points by the first one (PointNet++'s training augmentation).

    A replaced point takes over the visibility and the part of the first point too.
    """
    count = batch["points"].shape[1]
    ratio = uniform(keys, 1, stream=3) * largest_ratio  # (B, 1)
    dropped = uniform(keys, count, stream=4) < ratio  # (B, N)
    replaced = {}
    for name in ("points", "visibility", "parts"):
        if name in batch:
            rows = batch[name]  # (B, N) or (B, N, C)
            affected = dropped.view(*dropped.shape, *[1] * (rows.ndim - 2))
            replaced[name] = torch.where(affected, rows[:, :1], rows)
    return replaced


def augment_views(batch: Batch, settings: ViewAugmentation, seed: int, epoch: int) -> Batch:
    """Flip, zoom, shift and brighten images, with one draw for all views of a shape.

    Args:
        batch: ``views`` (B, V, C, H, W) uint8, ``index`` (B,) int64 and, if there, ``part_images``
            (B, V, H, W) int64, which are flipped, zoomed and shifted with their views.

    Returns:
        The batch with ``views`` as float32 in [0, 1] if anything was changed.
    """
    if settings == ViewAugmentation():
        return batch
    changed = dict(batch)
    views = batch["views"].float() / 255
    shapes, count = views.shape[:2]
    keys = sample_keys(seed, epoch, batch["index"])
    if settings.flip or settings.scale != (1.0, 1.0) or settings.shift > 0:
        mirror = torch.ones(shapes, device=views.device)
        if settings.flip:
            mirror = torch.where(uniform(keys, 1, stream=5)[:, 0] < 0.5, -mirror, mirror)
        zoom = _between(uniform(keys, 1, stream=6)[:, 0], *settings.scale)
        offset = _between(uniform(keys, 2, stream=7), -2 * settings.shift, 2 * settings.shift)
        affine = views.new_zeros(shapes, 2, 3)  # from output to input, in units of half an image
        affine[:, 0, 0] = mirror / zoom
        affine[:, 1, 1] = 1 / zoom
        affine[:, :, 2] = offset
        affine = affine.repeat_interleave(count, dim=0)  # (B * V, 2, 3)
        views = _warp(views.flatten(0, 1), affine, "bilinear").view(views.shape)
        if "part_images" in batch:
            parts = batch["part_images"]
            # In float32 every part number is exact, and the nearest pixel gives one as it is.
            warped = _warp(parts.flatten(0, 1).unsqueeze(1).float(), affine, "nearest")
            changed["part_images"] = warped.view(parts.shape).long()
    if settings.brightness > 0:
        factor = 1 + _between(uniform(keys, 1, stream=8), -settings.brightness, settings.brightness)
        views = (views * factor.view(-1, 1, 1, 1, 1)).clamp(0, 1)
    changed["views"] = views
    return changed


def _warp(images: Tensor, affine: Tensor, mode: str) -> Tensor:
    """(R, C, H, W) seen through ``affine`` (R, 2, 3)."""
    grid = F.affine_grid(affine, images.shape, align_corners=False)
    # The border is background, so repeating it fills what comes into the picture.
    return F.grid_sample(images, grid, mode, padding_mode="border", align_corners=False)
