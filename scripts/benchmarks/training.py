"""Whole training steps with distillation, by the recipe of each student, on made-up knowledge."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.augment import augment_points
from models.methods import Method, build_method
from models.students import build_student
from scripts.benchmarks.inputs import clouds, labels
from utils.config import load_config
from utils.engine import build_optimizer
from utils.settings import PointAugmentation, StudentConfig

CONFIGS = Path(__file__).parent.parent / "configs"
CLASSES, VIEWS, CODE = 40, 12, 512
VISIBLE = 0.38


@dataclass
class Training:
    """A method, its optimiser and one batch that every step draws anew."""

    method: Method
    optimizer: torch.optim.Optimizer
    batch: dict[str, Tensor]
    augmentation: PointAugmentation
    amp: str
    epoch: int = 0

    def draw(self) -> dict[str, Tensor]:
        """The batch with the augmentation of another epoch."""
        self.epoch += 1
        return augment_points(self.batch, self.augmentation, 0, self.epoch)

    def update(self, batch: dict[str, Tensor]) -> Tensor:
        """Forward, backward and the optimiser's step; the loss before it, a scalar."""
        kind = batch["points"].device.type
        bf16 = self.amp == "bf16"
        with torch.autocast(kind, torch.bfloat16) if bf16 else contextlib.nullcontext():
            output = self.method(batch)
        total = self.method.total(output.losses)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        return total.detach()

    def step(self) -> Tensor:
        return self.update(self.draw())


def make_training(
    encoder: str, batch: int, points: int, device: torch.device, amp: str
) -> Training:
    """Training of ``encoder`` by its file in ``scripts/configs``, with random codes of a teacher.

    ``batch`` clouds of ``points`` points, seen from 12 views; ``amp`` as in the configuration.
    """
    config = load_config(StudentConfig, [str(CONFIGS / f"{encoder}.yaml"), "data.name=none"])
    torch.manual_seed(0)
    network = build_student(config.student.encoder, CLASSES)
    method = build_method(
        config.distill.method,
        network,
        config.loss,
        smoothing=config.student.smoothing,
        pooling=config.distill.pooling,
        distance=config.distill.distance,
    ).to(device)
    method.train()
    fields = {
        "index": torch.arange(batch),
        "label": labels(batch, torch.device("cpu")),
        "points": clouds(batch, points, torch.device("cpu")),
        "visibility": torch.rand(batch, points, VIEWS) < VISIBLE,
        "view_codes": torch.rand(batch, VIEWS, CODE),
    }
    fields = {name: field.to(device) for name, field in fields.items()}
    optimizer = build_optimizer(config.optim, method.parameters())
    return Training(method, optimizer, fields, config.augment, amp)
