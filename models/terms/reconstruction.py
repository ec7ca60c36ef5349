"""The autoencoder teacher makes every view from its own code, without labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models.images.colours import unit_images
from models.outputs import TeacherOutput
from models.terms.base import Batch, Term


class Reconstruction(Term):
    """Mean absolute difference between the decoded view and the view in [0, 1]: the loss of
    PointMCD's teacher for learning without labels (Zhang et al., TMM 2023).

    Batch: ``views`` (B, V, 1 or 3, H, W), which are the network's input.
    """

    name = "reconstruction"
    roles = {"teacher": ("autoencoder",)}
    learns_from = "shapes"
    trains_all = True

    def forward(self, batch: Batch, output: TeacherOutput) -> Tensor:
        images = output.images.float()
        return F.l1_loss(images, unit_images(batch["views"]).expand_as(images))
