"""What the networks of images expect of their values."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_images(views: Tensor) -> Tensor:
    """(..., 1 or 3, H, W), uint8 or float in [0, 1] -> the same, float in [0, 1]."""
    return views.float() / 255 if views.dtype == torch.uint8 else views
