"""Which samples make which batch, on which process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.distributed import local_share, rank, world_size
from utils.errors import ConfigError, DataError


def carve_validation(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split shape indices into (train, validation), class by class, the same for the same seed.

    Every class keeps at least one shape for training; a class with a single shape gives none.

    Args:
        labels: (S,) class numbers; fraction in [0, 1) of each class goes to validation, rounded.

    Returns:
        Two sorted int64 arrays that partition 0..S-1.

    Raises:
        DataError: the fraction is above 0 and no class is large enough to give a shape.
    """
    generator = np.random.default_rng([seed, 0x7A1])
    held_out = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        held_out.append(members[: min(round(fraction * len(members)), len(members) - 1)])
    validation = np.sort(np.concatenate(held_out)).astype(np.int64)
    if fraction > 0 and len(validation) == 0:
        raise DataError(
            f"protocol.val_fraction={fraction} holds out no shape: the classes are too small"
        )
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def epoch_steps(count: int, batch_size: int) -> int:
    """Full batches in an epoch of ``count`` shapes.

    Raises:
        ConfigError: not even one, or a batch that does not divide over the processes into parts of
            two shapes or more.
    """
    if local_share(batch_size, "train.batch_size") < 2:
        raise ConfigError(
            f"train.batch_size={batch_size} on {world_size()} processes: batch normalisation needs "
            "two shapes or more in each"
        )
    if batch_size > count:
        raise ConfigError(f"train.batch_size={batch_size} is more than the {count} training shapes")
    return count // batch_size


def training_batches(
    members: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    balance: np.ndarray | None = None,
) -> Tensor:
    """Shuffled full batches of one epoch, this process's part: (steps, local batch) int64.

    All processes shuffle alike and each takes its slice of every batch, so ``batch_size`` means the
    same on one GPU and on eight. The remainder that fills no batch is left out of this epoch. With
    the classes of all shapes in ``balance`` (S,) an epoch has as many batches, and every class as
    many places in them.

    Raises:
        ConfigError: see :func:`epoch_steps`.
    """
    steps = epoch_steps(len(members), batch_size)
    share = batch_size // world_size()
    generator = np.random.default_rng([seed, epoch, 0x5B])
    if balance is not None:
        members = _draw_evenly(members, balance[members], steps * batch_size, generator)
    order = generator.permutation(members)
    batches = order[: steps * batch_size].reshape(steps, batch_size)
    return torch.from_numpy(batches[:, rank() * share : (rank() + 1) * share].copy())


def _draw_evenly(
    members: np.ndarray, labels: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """``count`` members, of each class as many as of any other, give or take one.

    paper: PointMCD's code draws a random class and then a random shape of it, with replacement
    here: the same probabilities in a whole epoch, where a class gives each of its shapes before it
    gives any of them again, because that shows more shapes in the same number of steps
    """
    classes = generator.permutation(np.unique(labels))
    quotas = np.diff(np.arange(len(classes) + 1) * count // len(classes))
    drawn = []
    for label, quota in zip(classes, quotas, strict=True):
        own = members[labels == label]
        rounds = np.tile(own, (-(-quota // len(own)), 1))
        drawn.append(generator.permuted(rounds, axis=1).reshape(-1)[:quota])
    return np.concatenate(drawn)


def evaluation_batches(members: np.ndarray, batch_size: int) -> list[Tensor]:
    """All samples in order; every ``world_size``-th batch is this process's, the last one short."""
    batches = torch.from_numpy(members).split(batch_size)
    return list(batches[rank() :: world_size()])


def move_batches(batches: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Batches of shape indices, (B,) each, to the device: all of an epoch in one copy."""
    if len(batches) == 0:
        return batches
    sizes = [len(index) for index in batches]
    return torch.cat(list(batches)).to(device).split(sizes)
