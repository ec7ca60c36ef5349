"""The regulariser of PointNet's feature transform (Qi et al., CVPR 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from models.outputs import StudentOutput
from models.terms.base import Batch, Term
from utils.errors import ConfigError
from utils.fields import Field
from utils.settings import TermSettings


class Transform(Term):
    """|| A A^T - I || of the transform A that PointNet applies to its features.

    Raises:
        ConfigError: a student without such a transform.
    """

    name = "transform"

    def __init__(self, settings: TermSettings, network: nn.Module, fields: dict[str, Field]):
        super().__init__(settings, network, fields)
        if self.name not in network.extra_losses:
            raise ConfigError(
                f"terms.{self.name} found a student without a feature transform, expected PointNet:"
                f" set terms.{self.name}.weight=0"
            )

    def forward(self, batch: Batch, output: StudentOutput) -> Tensor:
        return output.extra_losses[self.name]
