"""The generator of clouds learns to make a shape from what an image teacher says of it."""

from __future__ import annotations

from torch import Tensor, nn

from models.generators import Scaling, cloud_distance
from models.terms.base import Batch, Shape, Term
from utils.settings import TermSettings


class GenerationSettings(TermSettings):
    scaling: Scaling = "published"  # of clouds before they are compared, see models/generators.py


class Generation(Term):
    """Earth mover's distance between the generated cloud and the augmented one, averaged over the
    batch: the loss of PointCMT's generator (Yan et al., NeurIPS 2022).

    Batch: ``points`` (B, N, 3), as many as the generator makes.
    """

    name = "generation"
    Settings = GenerationSettings
    roles = {"teacher": ("generation",)}
    learns_from = "shapes"
    trains_all = True

    @classmethod
    def reads(cls, settings: GenerationSettings, network: nn.Module) -> dict[str, Shape | None]:
        return {"points": None}

    def forward(self, batch: Batch, output: Tensor) -> Tensor:
        return cloud_distance(output, batch["points"], self.settings.scaling).mean()
