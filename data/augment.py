"""Random changes of training samples, a whole batch at once, on the device where the batch lies.

What is drawn belongs to (seed, epoch, shape, copy): of a cloud or of views that a batch holds twice
each copy changes in its own way. All fields of a copy follow its changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data.rng import normal, sample_keys, uniform
from utils.settings import PointAugmentation, ViewAugmentation

Batch = dict[str, Tensor]
VOTE_SCALE = (0.85, 1.15)  # of a pass of a vote
GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue (ITU-R BT.601)


def _between(unit: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * unit


def augment_points(
    batch: Batch, settings: PointAugmentation, seed: int, epoch: int | Tensor, copy: int = 0
) -> Batch:
    """Thin out, scale, shift, rotate and jitter clouds, in the order of ``settings.order``.

    Args:
        batch: ``index`` (B,) int64 and, those that are there, ``points`` (B, N, 3) float32,
            ``visibility`` (B, N, V) and ``parts`` (B, N). Row n of these goes on describing
            point n.

    Returns:
        The batch with the changed fields replaced.
    """
    active = settings.active
    if not active:
        return batch
    keys = sample_keys(seed, epoch, batch["index"], copy)
    for name in settings.order:
        if name == "dropout" and name in active:
            batch = batch | _drop_points(batch, keys, settings.dropout)
        elif name in active and "points" in batch:
            batch = batch | {"points": MOVES[name](batch["points"], keys, settings)}
    return batch


def _drop_points(batch: Batch, keys: Tensor, largest_ratio: float) -> Batch:
    """Replace a random part of the points by the first one (PointNet++'s training augmentation).

    A replaced point takes over the visibility and the part of the first point too.
    """
    rows = {name: batch[name] for name in ("points", "visibility", "parts") if name in batch}
    if not rows:
        return {}
    count = next(iter(rows.values())).shape[1]
    ratio = uniform(keys, 1, stream=3) * largest_ratio  # (B, 1)
    dropped = uniform(keys, count, stream=4) < ratio  # (B, N)
    replaced = {}
    for name, values in rows.items():  # (B, N) or (B, N, C)
        affected = dropped.view(*dropped.shape, *[1] * (values.ndim - 2))
        replaced[name] = torch.where(affected, values[:, :1], values)
    return replaced


def _scale(points: Tensor, keys: Tensor, settings: PointAugmentation) -> Tensor:
    factors = _between(uniform(keys, 3 if settings.anisotropic else 1, stream=1), *settings.scale)
    return points * factors.unsqueeze(1)  # (B, 1, 3) or (B, 1, 1)


def vote_factors(index: Tensor, repeat: int, seed: int, passes: int) -> Tensor:
    """Uniform factors of each axis of a cloud, for every scaled pass of a vote: (passes, B, 3).

    Args:
        index: (B,) int64 of the shapes. repeat: number of the vote.
    """
    unit = uniform(sample_keys(seed, repeat, index), 3 * passes, stream=12)
    return _between(unit, *VOTE_SCALE).view(len(index), passes, 3).movedim(1, 0)


def _shift(points: Tensor, keys: Tensor, settings: PointAugmentation) -> Tensor:
    offsets = _between(uniform(keys, 3, stream=2), -settings.shift, settings.shift)
    return points + offsets.unsqueeze(1)


def _rotate(points: Tensor, keys: Tensor, settings: PointAugmentation) -> Tensor:
    if settings.rotation == "z":
        rotation = _about_z(uniform(keys, 1, stream=10)[:, 0], settings.rotation_degrees)
    else:
        rotation = _any_rotation(uniform(keys, 3, stream=10))
    # in full float32: a matrix product may round its factors to fewer digits on a GPU
    return (points.unsqueeze(2) * rotation.unsqueeze(1)).sum(dim=3)  # (B, N, 3, 3) -> (B, N, 3)


def _about_z(unit: Tensor, degrees: float) -> Tensor:
    """(B,) in [0, 1) -> matrices (B, 3, 3)."""
    angle = torch.deg2rad(_between(unit, -degrees, degrees))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1]
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def _any_rotation(unit: Tensor) -> Tensor:
    """(B, 3) in [0, 1) -> matrices (B, 3, 3) that are uniform over all rotations.

    By way of uniform unit quaternions (Shoemake, "Uniform random rotations", Graphics Gems III).
    """
    share, one, other = unit[:, 0], *(2 * torch.pi * unit[:, 1:]).unbind(dim=1)
    small, large = (1 - share).sqrt(), share.sqrt()
    x, y, z, w = small * one.sin(), small * one.cos(), large * other.sin(), large * other.cos()
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def _jitter(points: Tensor, keys: Tensor, settings: PointAugmentation) -> Tensor:
    noise = settings.jitter * normal(keys, points[0].numel(), stream=11)
    return points + noise.clamp(-settings.jitter_clip, settings.jitter_clip).view(points.shape)


MOVES = {"scale": _scale, "shift": _shift, "rotation": _rotate, "jitter": _jitter}


def augment_views(
    batch: Batch, settings: ViewAugmentation, seed: int, epoch: int | Tensor, copy: int = 0
) -> Batch:
    """Flip, zoom and shift images and change their colours, with one draw for all views of a shape.

    Args:
        batch: ``index`` (B,) int64 and, those that are there, ``views`` (B, V, C, H, W) uint8 and
            ``part_images`` (B, V, H, W) int64, which are flipped, zoomed and shifted with them.

    Returns:
        The batch with ``views`` as float32 in [0, 1] if anything may change.
    """
    if settings == ViewAugmentation() or not {"views", "part_images"} & batch.keys():
        return batch
    changed = dict(batch)
    keys = sample_keys(seed, epoch, batch["index"], copy)
    moves = settings.flip or settings.scale != (1.0, 1.0) or settings.shift > 0
    affine = _draw_affine(keys, settings) if moves else None
    if "views" in batch:
        views = batch["views"].float() / 255
        if moves:
            views = _warp(views, affine, "bilinear")
        changed["views"] = _change_colours(views, keys, settings)
    if "part_images" in batch and moves:
        # In float32 every part number is exact, and the nearest pixel gives one as it is.
        parts = batch["part_images"].unsqueeze(2).float()
        changed["part_images"] = _warp(parts, affine, "nearest").squeeze(2).long()
    return changed


def _draw_affine(keys: Tensor, settings: ViewAugmentation) -> Tensor:
    """(B, 2, 3) from output to input, in units of half an image."""
    mirror = torch.ones(len(keys), device=keys.device)
    if settings.flip:
        mirror = torch.where(uniform(keys, 1, stream=5)[:, 0] < 0.5, -mirror, mirror)
    zoom = _between(uniform(keys, 1, stream=6)[:, 0], *settings.scale)
    affine = mirror.new_zeros(len(keys), 2, 3)
    affine[:, 0, 0] = mirror / zoom
    affine[:, 1, 1] = 1 / zoom
    affine[:, :, 2] = _between(uniform(keys, 2, stream=7), -2 * settings.shift, 2 * settings.shift)
    return affine


def _warp(images: Tensor, affine: Tensor, mode: str) -> Tensor:
    """(B, V, C, H, W) seen through ``affine`` (B, 2, 3)."""
    flat = images.flatten(0, 1)
    affine = affine.repeat_interleave(images.shape[1], dim=0)  # (B * V, 2, 3)
    grid = F.affine_grid(affine, flat.shape, align_corners=False)
    # The border is background, so repeating it fills what comes into the picture.
    seen = F.grid_sample(flat, grid, mode, padding_mode="border", align_corners=False)
    return seen.view(images.shape)


def _change_colours(views: Tensor, keys: Tensor, settings: ViewAugmentation) -> Tensor:
    """Brightness, contrast, saturation of (B, V, C, H, W) in [0, 1]."""

    def factor(width: float, stream: int) -> Tensor:
        return (1 + _between(uniform(keys, 1, stream), -width, width)).view(-1, 1, 1, 1, 1)

    if settings.brightness > 0:
        views = (views * factor(settings.brightness, 8)).clamp(0, 1)
    if settings.contrast > 0:
        mean = _grey(views).mean(dim=(2, 3, 4), keepdim=True)  # of each view
        views = (mean + factor(settings.contrast, 12) * (views - mean)).clamp(0, 1)
    if settings.saturation > 0:
        grey = _grey(views)
        views = (grey + factor(settings.saturation, 13) * (views - grey)).clamp(0, 1)
    return views


def _grey(views: Tensor) -> Tensor:
    """(B, V, 1 or 3, H, W) -> (B, V, 1, H, W)."""
    if views.shape[2] == 1:
        return views
    red, green, blue = views.unbind(dim=2)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(2)
