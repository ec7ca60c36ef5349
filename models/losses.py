"""Losses: what is compared with what, apart from the methods that weigh them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.distributed import share_of_count

Distance = Literal["l1", "l2", "cosine"]

IGNORED = -1


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Label-smoothed cross-entropy as DGCNN and PointMCD define it.

    The target is ``1 - smoothing`` on the true class and ``smoothing / (K - 1)`` on each of the
    others. PyTorch's own smoothing spreads over all K classes instead, so its parameter has to be
    ``smoothing * K / (K - 1)`` for the same targets.

    Args:
        logits: (..., K); labels: (...) int64, ``IGNORED`` where there is none; smoothing in [0, 1).

    Returns:
        Scalar mean over the rows with a label, computed in float32; zero, with a gradient of zero,
        where no row has one. In several processes it is their mean that is the mean over the rows
        of all, however many labels each of them has.
    """
    classes = logits.shape[-1]
    equivalent = smoothing * classes / (classes - 1) if classes > 1 else 0.0
    rows, labels = logits.float().reshape(-1, classes), labels.reshape(-1)
    total = F.cross_entropy(
        rows, labels, ignore_index=IGNORED, label_smoothing=equivalent, reduction="sum"
    )
    return total / share_of_count((labels != IGNORED).sum())


def unit_images(views: Tensor) -> Tensor:
    """(..., 1 or 3, H, W), uint8 or float in [0, 1] -> the same, float in [0, 1]."""
    return views.float() / 255 if views.dtype == torch.uint8 else views


def alignment_loss(
    student_codes: Tensor, teacher_codes: Tensor, has_visible: Tensor, distance: Distance = "l1"
) -> Tensor:
    """Distance between the view codes, averaged over the views that see at least one point.

    Args:
        student_codes, teacher_codes: (B, V, D); no gradient flows to the teacher's.
        has_visible: (B, V) bool, False for views that see no point.
        distance: ``l1``, the mean absolute difference of the channels (the paper's); ``l2``, the
            mean squared difference; ``cosine``, one minus the cosine of the angle between the
            codes.

    Returns:
        Scalar; zero (with a gradient of zero) when no view of the batch sees a point. In several
        processes it is their mean that is the average over the views of all.
    """
    student, taught = student_codes.float(), teacher_codes.detach().float()
    if distance == "cosine":
        per_view = 1 - F.cosine_similarity(student, taught, dim=2)  # (B, V)
    else:
        difference = student - taught
        size = difference.abs() if distance == "l1" else difference.square()
        per_view = size.mean(dim=2)  # (B, V)
    weight = has_visible.to(per_view.dtype)
    return (per_view * weight).sum() / share_of_count(weight.sum())
