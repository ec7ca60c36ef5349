"""Classification losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Label-smoothed cross-entropy as DGCNN and PointMCD define it.

    The target is ``1 - smoothing`` on the true class and ``smoothing / (K - 1)`` on each of the
    others. PyTorch's own smoothing spreads over all K classes instead, so its parameter has to be
    ``smoothing * K / (K - 1)`` for the same targets.

    Args:
        logits: (R, K); labels: (R,) int64; smoothing in [0, 1).

    Returns:
        Scalar mean over the R rows, computed in float32.
    """
    classes = logits.shape[1]
    equivalent = smoothing * classes / (classes - 1) if classes > 1 else 0.0
    return F.cross_entropy(logits.float(), labels, label_smoothing=equivalent)
