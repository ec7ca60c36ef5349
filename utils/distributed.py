"""One process or many: what changes under ``torchrun`` is in this file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from utils.errors import ConfigError


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the one that writes files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that ``torchrun`` announces (NCCL on CUDA, gloo on a CPU) and leave it after.

    Without ``torchrun`` this does nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_share(total: int, what: str) -> int:
    """``total`` split evenly over the processes; ConfigError if it does not divide."""
    share, rest = divmod(total, world_size())
    if rest or share == 0:
        raise ConfigError(f"{what}={total} does not divide over {world_size()} processes")
    return share


def gather_objects(value: Any) -> list[Any]:
    """``value`` of every process, in the order of their ranks, on every process."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def share_buffers(module: torch.nn.Module) -> None:
    """Give every process the buffers of the main one, whose are the ones that are saved.

    DistributedDataParallel does so before a step; after the last one they differ, and with them the
    running statistics of batch normalisation.
    """
    if world_size() > 1:
        for value in module.buffers():
            dist.broadcast(value, 0)


def average(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over the processes, on all of them."""
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values


def share_of_count(count: torch.Tensor) -> torch.Tensor:
    """What to divide a sum over this process's targets by, so that the mean of the quotients over
    the processes is the mean over the targets of all.

    ``count``: scalar, how many targets there are here. In one process that is the number itself, in
    several the mean of their numbers; where nobody has any, it is as if there were one.
    """
    if world_size() == 1:
        return count.clamp(min=1)
    total = count.to(torch.float32, copy=True)
    dist.all_reduce(total)
    return total.clamp(min=1) / world_size()
