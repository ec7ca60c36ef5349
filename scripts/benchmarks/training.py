"""Whole training steps with distillation, by the recipe of each student, on made-up knowledge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.augment import augment_points
from models.objective import Objective
from models.students import build_student
from models.terms import active_terms, with_terms
from scripts.benchmarks.inputs import clouds, labels
from utils.config import load_config
from utils.fields import Field
from utils.optim import build_optimizer
from utils.settings import PointAugmentation, StudentConfig
from utils.step import EagerStep, GraphStep, build_step

RECIPES = Path(__file__).parent.parent / "configs" / "recipes"
CLASSES, VIEWS, CODE = 40, 12, 512
VISIBLE = 0.38


@dataclass
class Training:
    """An objective, the step that trains it and one batch that every step draws anew."""

    objective: Objective
    run: EagerStep | GraphStep
    batch: dict[str, Tensor]
    augmentation: PointAugmentation
    epoch: int = 0

    def draw(self) -> dict[str, Tensor]:
        """The batch with the augmentation of another epoch."""
        self.epoch += 1
        return augment_points(self.batch, self.augmentation, 0, self.epoch)

    def update(self, batch: dict[str, Tensor]) -> Tensor:
        """Forward, backward and the optimiser's step; the loss before it, a scalar."""
        return self.objective.total(self.run(batch).losses).detach()

    def step(self) -> Tensor:
        return self.update(self.draw())


def make_training(
    encoder: str, batch: int, points: int, device: torch.device, amp: str, graph: bool = False
) -> Training:
    """Training of ``encoder`` by its recipe in ``scripts/configs``, with random codes of a teacher.

    ``batch`` clouds of ``points`` points, seen from 12 views; ``amp`` as in the configuration,
    ``graph`` as ``train.cuda_graph``.
    """
    config = load_config(
        with_terms(StudentConfig), [str(RECIPES / f"{encoder}.yaml"), "data.name=none"]
    )
    torch.manual_seed(0)
    network = build_student(config.student.encoder, CLASSES)
    codes = Field((VIEWS, CODE), signed=False)
    known = {"label": Field(()), "visibility": Field((points, VIEWS)), "view_codes": codes}
    objective = Objective(network, active_terms(config.terms), known).to(device).train()
    fields = {
        "index": torch.arange(batch),
        "label": labels(batch, torch.device("cpu")),
        "points": clouds(batch, points, torch.device("cpu")),
        "visibility": torch.rand(batch, points, VIEWS) < VISIBLE,
        "view_codes": torch.rand(batch, VIEWS, CODE),
    }
    fields = {name: field.to(device) for name, field in fields.items()}
    train = config.train.model_copy(update={"amp": amp, "cuda_graph": graph})
    optimizer = build_optimizer(config.optim, objective, in_graph=train.cuda_graph)
    step = build_step(objective, optimizer, config.optim, train, device)
    return Training(objective, step, fields, config.augment)
