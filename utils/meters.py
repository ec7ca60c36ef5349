"""What is measured while an epoch runs, without making a step wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from utils.distributed import average
from utils.errors import RunError


class Sums:
    """Sums over the steps of an epoch, kept on the device so that no step waits for the host.

    They lie in the same memory from the first step to the last epoch: :meth:`add` is a part of the
    step, and of its CUDA graph. A sum that is once not finite stays so. How many steps left it
    finite is counted beside it and tells afterwards which step broke it.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.losses: Tensor | None = None  # (terms,) float32
        self.finite_steps: Tensor | None = None  # (terms,) float32, whole numbers
        self.judged: Tensor | None = None  # (2,) int64: targets hit, targets that are not ignored
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """From zero; ``epoch`` counts from 0."""
        self.epoch = epoch
        self.shapes = self.steps = 0
        self._sent: tuple[int, Tensor, torch.cuda.Event | None] | None = None
        for values in (self.losses, self.finite_steps, self.judged):
            if values is not None:
                values.zero_()

    def add(self, output: Any) -> None:
        """Take in the output of a step: ``losses`` by name, ``logits`` and ``target`` or None."""
        values = torch.stack([value.detach().float() for value in output.losses.values()])
        if self.losses is None:
            self.names = list(output.losses)
            self.losses, self.finite_steps = torch.zeros_like(values), torch.zeros_like(values)
        self.losses += values
        self.finite_steps += torch.isfinite(self.losses)
        if output.target is not None:
            hits = output.logits.argmax(dim=-1) == output.target
            judged = torch.stack([hits.sum(), (output.target >= 0).sum()])
            if self.judged is None:
                self.judged = torch.zeros_like(judged)
            self.judged += judged

    def count(self, shapes: int) -> None:
        """A step was asked for: what the host knows of it."""
        self.shapes += shapes
        self.steps += 1

    def peek(self) -> dict[str, float]:
        """The mean terms as they were at an earlier call: nothing is waited for.

        Each call sends the sums on their way to the host and gives what an earlier one sent, if
        that has arrived, otherwise nothing.

        Raises:
            RunError: a term was not finite by then.
        """
        means = {}
        if self._sent is not None:
            steps, values, arrived = self._sent
            if arrived is not None and not arrived.query():
                return {}
            sums = self._check(values, steps)
            means = {name: value / steps for name, value in sums.items()}
        values, arrived = torch.cat([self.losses, self.finite_steps]), None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._sent = self.steps, values, arrived
        return means

    def means(self) -> dict[str, float]:
        """Mean of every term and the training accuracy, if there is one, over all processes.

        Raises:
            RunError: a term that is not finite.
        """
        self._check(torch.cat([self.losses, self.finite_steps]), self.steps)
        values = [(self.losses / self.steps).double()]
        if self.judged is not None:
            values.append(self.judged.double())
        found = average(torch.cat(values)).tolist()
        means = {f"loss/{name}": value for name, value in zip(self.names, found, strict=False)}
        if self.judged is not None:
            hits, judged = found[-2:]
            means["train/accuracy"] = 100.0 * hits / judged if judged else 0.0
        return means

    def _check(self, values: Tensor, steps: int) -> dict[str, float]:
        """The sums, from ``values`` = (losses, finite_steps) as they were after ``steps`` steps."""
        sums, finite_steps = values.view(2, -1).tolist()
        broken = {
            name: int(finite)
            for name, finite in zip(self.names, finite_steps, strict=True)
            if finite < steps
        }
        if broken:
            raise RunError(
                f"loss {', '.join(broken)} is not finite in epoch {self.epoch + 1}, from step "
                f"{min(broken.values()) + 1}; the state after epoch {self.epoch} is kept. Lower "
                "optim.lr or set optim.clip_grad"
            )
        return dict(zip(self.names, sums, strict=True))


class EpochClock:
    """The time since this was made, and how much of it the host waited for data.

    Args:
        waited: how long it has waited for data, all told, in seconds.
    """

    def __init__(self, waited: Callable[[], float]):
        self.waited = waited
        self.begin, self.waited_before = time.perf_counter(), waited()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begin

    @property
    def waiting(self) -> float:
        """Which share of this time went into waiting, in percent."""
        return 100.0 * (self.waited() - self.waited_before) / self.seconds
