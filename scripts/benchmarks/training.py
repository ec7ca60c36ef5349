"""Whole training steps with distillation, by the recipe of each student, on made-up knowledge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.augment import augment_points
from data.datasets import unpack_bits
from data.rendering.cameras import pack_visibility
from data.training import EPOCH
from models.objective import Objective
from models.students import build_student
from models.terms import active_terms, with_terms
from scripts.benchmarks.inputs import clouds, labels
from utils.config import load_config
from utils.fields import Field
from utils.optim import build_optimizer
from utils.settings import StudentConfig
from utils.step import Batch, EagerStep, GraphStep, build_step

RECIPES = Path(__file__).parent.parent / "configs" / "recipes"
CLASSES, VIEWS, CODE = 40, 12, 512
VISIBLE = 0.38


@dataclass
class Training:
    """An objective, the step that trains it and its data, which every step draws anew."""

    objective: Objective
    run: EagerStep | GraphStep
    index: Tensor  # (B,) int64, the shapes of every batch
    epoch: Tensor  # () int64, on the device

    def step(self) -> Tensor:
        """One step on the batch of another epoch: indices in, the loss before it out, a scalar."""
        self.epoch += 1
        output = self.run({"index": self.index, EPOCH: self.epoch})
        return self.objective.total(output.losses).detach()


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
    seen = torch.rand(batch, points, VIEWS) < VISIBLE
    kept = {
        "label": labels(batch, torch.device("cpu")),
        "points": clouds(batch, points, torch.device("cpu")),
        "seen": torch.from_numpy(pack_visibility(seen.numpy())),
        "view_codes": torch.rand(batch, VIEWS, CODE),
    }
    kept = {name: field.to(device) for name, field in kept.items()}

    def draw(inputs: Batch) -> Batch:
        """As from a prepared set that is kept on the device."""
        index, epoch = inputs["index"], inputs[EPOCH]
        found = {name: field[index] for name, field in kept.items()}
        found["visibility"] = unpack_bits(found.pop("seen"), VIEWS)
        return augment_points({"index": index, **found}, config.augment, 0, epoch)

    train = config.train.model_copy(update={"amp": amp, "cuda_graph": graph})
    optimizer = build_optimizer(config.optim, objective, in_graph=graph)
    step = build_step(objective, draw, optimizer, config.optim, train, device, graph)
    epoch = torch.zeros((), device=device, dtype=torch.int64)
    return Training(objective, step, torch.arange(batch, device=device), epoch)
