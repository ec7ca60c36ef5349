"""Classification losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from utils.distributed import share_of_count

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
