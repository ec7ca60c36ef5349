"""The optimiser, its learning rate over the epochs, and how its state is taken up again."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from utils.settings import OptimSettings

# What a run chooses anew when it is resumed, since it may go on on another device.
_OWN = ("lr", "fused", "capturable")
_TELL_THE_COMPILER = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
WARMUP_START = 0.01  # share of the rate that the first epoch of a warm-up has
# Modules whose parameters AdamW does not decay, whatever their number of axes.
_PLAIN_MODULES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_PLAIN_MODULES += (nn.Embedding, nn.EmbeddingBag)
# cls_token, mask_token, bias, pos_embed, positional_embedding, relative_position_bias_table, ...
_PLAIN_NAME = re.compile(r"token|bias|(^|_)pos(_emb|ition)")


def learning_rate(settings: OptimSettings, epoch: int, epochs: int) -> float:
    """The rate of an epoch (counted from 0): cosine to ``min_lr``, or steps down to it.

    Before that come ``warmup_epochs``, in which it rises linearly from ``WARMUP_START`` of the
    first rate of the schedule, which begins after them and has the rest of the epochs.
    """
    warmup = settings.warmup_epochs
    if epoch < warmup:
        share = WARMUP_START + (1 - WARMUP_START) * epoch / warmup
        return share * learning_rate(settings, warmup, epochs)
    epoch, epochs = epoch - warmup, epochs - warmup
    if settings.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return settings.min_lr + (settings.lr - settings.min_lr) * share
    stepped = settings.lr * settings.step_factor ** (epoch // settings.step_epochs)
    return max(stepped, settings.min_lr)


def build_schedule(
    settings: OptimSettings, optimizer: torch.optim.Optimizer, epochs: int, done: int = 0
) -> LambdaLR:
    """PyTorch's scheduler of :func:`learning_rate`; ``step()`` after every epoch.

    The rate follows from the epoch alone, so that a run goes on without a state of this. A rate on
    the device, which a CUDA graph reads, is filled in place.

    Args:
        optimizer: with its state, if it has one. epochs: of the whole run. done: those behind it.
    """
    for group in optimizer.param_groups:
        group["initial_lr"] = 1.0  # is multiplied by the rate, which so keeps its last digit
    return LambdaLR(optimizer, lambda epoch: learning_rate(settings, epoch, epochs), done - 1)


def build_optimizer(
    settings: OptimSettings, module: nn.Module, in_graph: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of the parameters of ``module`` that are not frozen.

    SGD with momentum and Adam decay all of them, as in the papers; AdamW those of
    :func:`decayed_parameters`.

    On CUDA all parameters are updated in one kernel. On a CPU that saves no more than a hundredth
    of a step and would change the last digits of results that are otherwise the same for ever.

    Args:
        in_graph: for steps that a CUDA graph replays. The rate is then a tensor on the device,
            because a graph would keep a number for ever.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device = parameters[0].device
    rate = torch.tensor(settings.lr, device=device) if in_graph else settings.lr
    fused = True if device.type == "cuda" else None
    common = {"lr": rate, "weight_decay": settings.weight_decay, "fused": fused}
    if settings.name == "sgd":
        return _lean(torch.optim.SGD)(parameters, momentum=settings.momentum, **common)
    if settings.name == "adam":
        return _lean(torch.optim.Adam)(parameters, capturable=in_graph, **common)
    decayed = decayed_parameters(module)
    groups = [
        {"params": [parameter for parameter in parameters if parameter in decayed]},
        {
            "params": [parameter for parameter in parameters if parameter not in decayed],
            "weight_decay": 0.0,
        },
    ]
    return _lean(torch.optim.AdamW)(groups, capturable=in_graph, **common)


def _lean(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """``kind``, computing the same without an import of PyTorch's compiler.

    The methods of an optimiser call the compiler, to say that they are not to be compiled, and its
    import takes 2 to 3 s. ``train.compile`` compiles the objective, never the optimiser.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _TELL_THE_COMPILER}
    methods["step"] = torch.no_grad()(methods["step"])
    return type(kind.__name__, (kind,), methods)


def decayed_parameters(module: nn.Module) -> set[nn.Parameter]:
    """The weights of linear layers, convolutions, attention and the like: what AdamW decays.

    Left out are parameters with one axis or none (biases, scales), those of normalisations and of
    tables with an entry per token (``nn.Embedding``), and those whose own name says that they are a
    bias, a token or an embedding of positions. A layer that computes an embedding is decayed:
    ``pos_embed.0.weight`` is the weight of a linear layer.
    """
    return {
        parameter
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if parameter.ndim > 1
        and not isinstance(part, _PLAIN_MODULES)
        and not _PLAIN_NAME.search(name)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from a saved ``state_dict``, of a run that may have computed elsewhere."""
    groups = [
        saved | {key: own[key] for key in _OWN if key in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})
