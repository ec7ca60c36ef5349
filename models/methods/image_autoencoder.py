"""Training of the autoencoder teacher: every view from its own code, without labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models.losses import unit_images
from models.methods.base import Method, MethodOutput


class ImageAutoencoder(Method):
    """The loss of PointMCD's teacher for learning without labels (Zhang et al., TMM 2023).

    Batch: ``views`` (B, V, 1 or 3, H, W).
    Terms: ``pixel``, mean absolute difference between the decoded view and the view in [0, 1].
    """

    inputs = ("views",)
    terms = ("pixel",)

    def forward(self, batch: dict[str, Tensor]) -> MethodOutput:
        images = self.network(batch["views"]).images.float()
        return MethodOutput(
            {"pixel": F.l1_loss(images, unit_images(batch["views"]).expand_as(images))}
        )
