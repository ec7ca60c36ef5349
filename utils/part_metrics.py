"""Part segmentation metrics from counts: how well points, or pixels, are divided into parts.

Parts are numbered over all categories together, those of a category next to each other; ``ranges``
lists (begin, end) for every category. A prediction is restricted to the parts of the shape's
category, which is known. Instance mIoU averages the intersection over union (IoU) of the category's
parts for every shape, then over the shapes; class mIoU averages over the shapes of a category, then
over the categories that occur.

A part may be absent from a shape. The ``standard`` rule gives it an IoU of 1 where neither the
labels nor the prediction have it. The ``lenient`` rule, of PointMCD's released code, gives 1
wherever the labels do not have it, even if it was predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Ranges = Sequence[tuple[int, int]]


def allowed_parts(ranges: Ranges, background: bool = False) -> Tensor:
    """(categories, K) bool: which parts a category has; ``background`` adds a last column for all.

    K is the end of the last range, and one more with the background of label images.
    """
    parts = torch.arange(ranges[-1][1] + background)
    begins, ends = torch.tensor(ranges).T[:, :, None]
    allowed = (parts >= begins) & (parts < ends)  # (C, K)
    if background:
        allowed[:, -1] = True
    return allowed


def restrict_to_category(
    logits: Tensor, category: Tensor, ranges: Ranges, background: bool = False
) -> Tensor:
    """The best part among those of the shape's category (and the background).

    Args:
        logits: (B, ..., K). category: (B,) int64.

    Returns:
        (B, ...) int64 global part numbers.
    """
    mask = allowed_parts(ranges, background).to(logits.device)[category]  # (B, K)
    mask = mask.view(len(mask), *[1] * (logits.ndim - 2), -1)
    return logits.masked_fill(~mask, -torch.inf).argmax(dim=-1)


def part_counts(predicted: Tensor, truth: Tensor, parts: int) -> Tensor:
    """How often each part is right, predicted and true, per shape: all that the metrics need.

    Args:
        predicted, truth: (B, ...) int64 in 0..parts-1, on one device; a true part below 0 stands
            for a point without a label, which counts nowhere.

    Returns:
        (B, 3, parts) int64: intersection, predicted, true.

    Raises:
        ValueError: different shapes, or a number outside the range.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"{tuple(predicted.shape)} predictions, {tuple(truth.shape)} labels")
    predicted, truth = predicted.flatten(1), truth.flatten(1)  # (B, N)
    labelled = truth >= 0
    shape = torch.arange(len(truth), device=truth.device)[:, None].expand_as(truth)
    p, t, row = predicted[labelled], truth[labelled], shape[labelled]
    if p.numel() and not (p.min() >= 0 and max(p.max(), t.max()) < parts):
        raise ValueError(f"a part outside 0..{parts - 1}")
    size = len(truth) * 3 * parts
    right = p == t
    place = torch.cat([row[right] * 3 * parts + p[right], (row * 3 + 1) * parts + p])
    place = torch.cat([place, (row * 3 + 2) * parts + t])
    return torch.bincount(place, minlength=size).view(len(truth), 3, parts)


@dataclass(frozen=True)
class PartScore:
    """Percentages. ``overall``: of all labelled points that are right. ``instance_miou``
    and ``class_miou`` by the standard rule, ``_lenient`` by the lenient one. ``per_category`` and
    ``per_category_lenient`` (C,): instance mIoU within a category, NaN where no shape of it has a
    label. ``shapes`` (C,): how many have one."""

    overall: float
    instance_miou: float
    class_miou: float
    instance_miou_lenient: float
    class_miou_lenient: float
    per_category: np.ndarray
    per_category_lenient: np.ndarray
    shapes: np.ndarray


def mean_ious(counts: np.ndarray, mask: np.ndarray, lenient: bool = False) -> np.ndarray:
    """Mean IoU (S,) in 0..1 of every shape over its parts ``mask`` (S, K) bool.

    Args:
        counts: (S, 3, K) of :func:`part_counts`.
    """
    intersection, predicted, true = np.moveaxis(counts, 1, 0)  # (S, K) each
    union = predicted + true - intersection
    absent = (true == 0) if lenient else (union == 0)
    iou = np.where(absent, 1.0, intersection / np.maximum(union, 1))
    return (iou * mask).sum(axis=1) / mask.sum(axis=1)


def shape_ious(counts: np.ndarray, categories: np.ndarray, ranges: Ranges) -> dict[str, np.ndarray]:
    """``iou`` and ``iou_lenient`` (S,) in percent of every shape, by both rules; NaN for shapes
    without a labelled point. Arguments as in :func:`score_parts`."""
    parts = ranges[-1][1]
    mask = allowed_parts(ranges).numpy()[categories]  # (S, P)
    labelled = counts[:, 2].sum(axis=1) > 0
    return {
        name: np.where(labelled, 100.0 * mean_ious(counts[..., :parts], mask, lenient), np.nan)
        for name, lenient in (("iou", False), ("iou_lenient", True))
    }


def score_parts(counts: np.ndarray, categories: np.ndarray, ranges: Ranges) -> PartScore:
    """The metrics of S shapes at once; shapes without any labelled point are left out.

    Args:
        counts: (S, 3, K) of :func:`part_counts`; a column beyond the last range is the background
            of label images, which counts for ``overall`` and as a part of no category.
        categories: (S,) int64.

    Raises:
        ValueError: no shape has a labelled point, or one has labels of another category's parts.
    """
    labelled = counts[:, 2].sum(axis=1) > 0
    if not labelled.any():
        raise ValueError("no shape has a labelled point: there is nothing to measure")
    counts, categories = counts[labelled], categories[labelled]
    parts = ranges[-1][1]
    mask = allowed_parts(ranges).numpy()[categories]  # (S, P)
    foreign = (counts[:, 2, :parts] * ~mask).any(axis=1)
    if foreign.any():
        raise ValueError(f"{foreign.sum()} shapes have labels of another category's parts")
    occurring = np.bincount(categories, minlength=len(ranges))
    overall = 100.0 * counts[:, 0].sum() / counts[:, 2].sum()
    found = {"overall": float(overall), "shapes": occurring}
    for rule in ("", "_lenient"):
        ious = 100.0 * mean_ious(counts[..., :parts], mask, lenient=rule == "_lenient")
        with np.errstate(invalid="ignore"):
            per_category = np.bincount(categories, ious, minlength=len(ranges)) / occurring
        found[f"instance_miou{rule}"] = float(ious.mean())
        found[f"class_miou{rule}"] = float(np.nanmean(per_category))
        found[f"per_category{rule}"] = per_category
    return PartScore(**found)
