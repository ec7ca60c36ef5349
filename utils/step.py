"""One training step: forward, backward, update. As it is, compiled, or as one CUDA graph."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.distributed import world_size
from utils.errors import ConfigError
from utils.settings import OptimSettings, TrainSettings

Batch = dict[str, Tensor]
WARM_UP = 3  # steps before a graph is captured: libraries set themselves up, the optimiser too


def check_step(train: TrainSettings, device: torch.device) -> None:
    """Refuse what a step cannot be made of.

    Raises:
        ConfigError: a CUDA graph on a CPU, or a graph or a compiled objective in several processes.
    """
    if train.cuda_graph and device.type != "cuda":
        raise ConfigError(f"train.cuda_graph=true needs a GPU, found {device.type}: leave it false")
    for name in ("compile", "cuda_graph"):
        if getattr(train, name) and world_size() > 1:
            raise ConfigError(
                f"train.{name}=true works in one process, found {world_size()}: processes talk to "
                "each other within a step; leave it false"
            )


def build_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    optim: OptimSettings,
    train: TrainSettings,
    device: torch.device,
) -> EagerStep | GraphStep:
    """The step of a training run; see :func:`check_step` for what cannot be had.

    Args:
        objective: ``forward(batch) -> output`` with ``.losses``, ``total(losses)`` and, in several
            processes, ``trains_all``: whether that gives every parameter a gradient.
        optimizer: of its parameters, built for a graph if ``train.cuda_graph``.
    """
    step = EagerStep(
        _runnable(objective, train, device), objective, optimizer, optim, train, device
    )
    return GraphStep(step) if train.cuda_graph else step


def _runnable(objective: nn.Module, train: TrainSettings, device: torch.device) -> nn.Module:
    if train.compile:
        if torch.are_deterministic_algorithms_enabled():
            # once more, so that the compiler hears of it too; see utils.device.prepare_process
            torch.use_deterministic_algorithms(True, warn_only=True)
        return torch.compile(objective, dynamic=False)  # training batches are all of one size
    if world_size() == 1:
        return objective
    return DistributedDataParallel(
        objective,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=not objective.trains_all,
    )


class EagerStep:
    """Forward, backward, clipping and update on a batch; gives the output of the objective."""

    def __init__(
        self,
        model: nn.Module,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        optim: OptimSettings,
        train: TrainSettings,
        device: torch.device,
    ):
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.clip = optim.clip_grad
        # made only if asked for: a GPU without bfloat16 refuses it
        self.precision = {
            "none": contextlib.nullcontext,
            "bf16": lambda: torch.autocast(device.type, torch.bfloat16),
        }[train.amp]()

    def __call__(self, batch: Batch) -> Any:
        with self.precision:
            output = self.model(batch)
        total = self.objective.total(output.losses)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip)
        self.optimizer.step()
        return output


class GraphStep:
    """An :class:`EagerStep` recorded once as a CUDA graph and replayed: one launch per step.

    A graph reads and writes the same memory every time, so batches are copied into buffers and
    must all have the shapes of the first one; what a replay returns is overwritten by the next. The
    first ``WARM_UP`` steps are eager ones, on a stream of their own, and count like any other.
    """

    def __init__(self, step: EagerStep):
        self.step = step
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Batch = {}
        self.output: Any = None
        self.warm_ups = 0

    def __call__(self, batch: Batch) -> Any:
        if not self.batch:
            self.batch = {name: value.clone() for name, value in batch.items()}
        for name, buffer in self.batch.items():
            buffer.copy_(batch[name])
        if self.warm_ups < WARM_UP:
            self.warm_ups += 1
            return self._warm_up()
        if self.graph is None:
            self._capture()  # records, and computes nothing
        self.graph.replay()
        return self.output

    def _warm_up(self) -> Any:
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            output = self.step(self.batch)
        here.wait_stream(self.stream)
        return output

    def _capture(self) -> None:
        self.step.optimizer.zero_grad(set_to_none=True)  # the graph makes gradients of its own
        self.graph = torch.cuda.CUDAGraph()
        # On the stream of the warm-ups: a node of a backward pass belongs to the stream that it was
        # made on, and an output that somebody still holds keeps those of the parameters alive.
        # Other threads (a loader's, which pins memory) may go on calling CUDA meanwhile.
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.output = self.step(self.batch)
