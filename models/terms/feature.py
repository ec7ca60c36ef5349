"""PointCMT: feature enhancement, the clouds that two codes of a shape stand for are alike.

Yan et al., "Let Images Give You More", NeurIPS 2022.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.generators import Scaling, cloud_distance, open_generator
from models.outputs import StudentOutput
from models.terms.base import Batch, Shape, Term
from models.terms.codes import check_code
from utils.distributed import is_main
from utils.errors import ConfigError
from utils.fields import Field
from utils.settings import TermSettings


class FeatureSettings(TermSettings):
    generator: str | None = None  # checkpoint of a generator of the bank's teacher
    scaling: Scaling = "published"  # of clouds before they are compared, see models/generators.py


class Feature(Term):
    """Earth mover's distance between what a frozen generator makes of the student's code and of the
    teacher's, averaged over the batch.

    Batch: ``codes`` (B, D) of the teacher; the student's own code, which its classifier reads, has
    the same width.

    Raises:
        ConfigError: a student without a code of that width, no generator, one of another teacher or
            for codes of another width.
        DataError: a generator's file that is missing or damaged.
    """

    name = "feature"
    Settings = FeatureSettings
    roles = {"student": ("classification",)}
    learns_from = "teacher"

    def __init__(self, settings: FeatureSettings, network: nn.Module, fields: Mapping[str, Field]):
        super().__init__(settings, network, fields)
        check_code(self.name, network, self.fields["codes"])

    @classmethod
    def reads(cls, settings: FeatureSettings, network: nn.Module) -> dict[str, Shape | None]:
        return {"codes": None}

    @classmethod
    def changes(cls, settings: FeatureSettings) -> list[str]:
        return [f"{settings.scaling} scaling"] if settings.scaling != "published" else []

    def begin(self, cameras: Mapping[str, Any]) -> None:
        path, codes = self.settings.generator, self.fields["codes"]
        if path is None:
            raise ConfigError(
                "terms.feature needs the generator of its teacher: give "
                "terms.feature.generator=CKPT of recipes/pointcmt_generator.yaml, or "
                "terms.feature.weight=0"
            )
        generator, teacher, self.inputs["generator"] = open_generator(path)
        if generator.code_size != codes.shape[-1]:
            raise ConfigError(
                f"terms.feature.generator={path} reads codes of {generator.code_size} channels, "
                f"the bank has {codes.shape[-1]}: train one from this bank"
            )
        if teacher is None and is_main():
            print(f"{path} does not say which teacher it belongs to", file=sys.stderr)
        elif teacher not in (None, codes.teacher):
            raise ConfigError(
                f"terms.feature.generator={path} was trained on codes of the teacher {teacher}, "
                f"the bank is of {codes.teacher or 'an unknown one'}: train one from this bank"
            )
        self.freeze("generator", generator)

    def forward(self, batch: Batch, output: StudentOutput) -> Tensor:
        generate = self.frozen["generator"]
        with torch.autocast(batch["codes"].device.type, enabled=False):  # bf16 would move points
            clouds, taught = generate(output.code.float()), generate(batch["codes"])
            return cloud_distance(clouds, taught, self.settings.scaling).mean()
