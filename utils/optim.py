"""The optimiser, its learning rate over the epochs, and how its state is taken up again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from utils.settings import OptimSettings

# What a run chooses anew when it is resumed, since it may go on on another device.
_OWN = ("lr", "fused", "capturable")


def learning_rate(settings: OptimSettings, epoch: int, epochs: int) -> float:
    """The rate of an epoch (counted from 0): cosine to ``min_lr``, or steps down to it."""
    if settings.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return settings.min_lr + (settings.lr - settings.min_lr) * share
    stepped = settings.lr * settings.step_factor ** (epoch // settings.step_epochs)
    return max(stepped, settings.min_lr)


def build_optimizer(
    settings: OptimSettings, parameters: Iterable[Tensor], in_graph: bool = False
) -> torch.optim.Optimizer:
    """SGD with momentum or Adam, weight decay on all parameters as in the papers.

    On CUDA all parameters are updated in one kernel. On a CPU that saves no more than a hundredth
    of a step and would change the last digits of results that are otherwise the same for ever.

    Args:
        in_graph: for steps that a CUDA graph replays. The rate is then a tensor on the device,
            because a graph would keep a number for ever.
    """
    parameters = list(parameters)
    device = parameters[0].device
    rate = torch.tensor(settings.lr, device=device) if in_graph else settings.lr
    fused = True if device.type == "cuda" else None
    common = {"lr": rate, "weight_decay": settings.weight_decay, "fused": fused}
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum, **common)
    return torch.optim.Adam(parameters, capturable=in_graph, **common)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the steps to come, of all parameters."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from a saved ``state_dict``, of a run that may have computed elsewhere."""
    groups = [
        saved | {key: own[key] for key in _OWN if key in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})
