"""One training step: draw the batch, forward, backward, update. As it is, compiled, or as one CUDA
graph."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.distributed import world_size
from utils.errors import ConfigError, RunError
from utils.meters import Sums
from utils.settings import OptimSettings, TrainSettings

Batch = dict[str, Tensor]
WARM_UP = 3  # steps before a graph is captured: libraries set themselves up, the optimiser too
WAITS = "synchronizing CUDA operation"  # in PyTorch's warnings of what makes the host wait


def check_step(train: TrainSettings, device: torch.device) -> None:
    """Refuse what a step cannot be made of.

    Raises:
        ConfigError: a CUDA graph on a CPU, or a graph or a compiled objective in several processes.
    """
    if train.cuda_graph is True and device.type != "cuda":
        raise ConfigError(
            f"train.cuda_graph=true needs a GPU, found {device.type}: leave it at auto"
        )
    for name in ("compile", "cuda_graph"):
        if getattr(train, name) is True and world_size() > 1:
            raise ConfigError(
                f"train.{name}=true works in one process, found {world_size()}: processes talk to "
                "each other within a step; leave it out"
            )


def no_graph(objective: nn.Module, train: TrainSettings, device: torch.device) -> str | None:
    """Why a step of this run cannot be one CUDA graph, in a few words; None if it may be tried.

    Raises:
        ConfigError: ``train.cuda_graph=true``, and a part of the objective says that it cannot.
    """
    if device.type != "cuda":
        return f"CUDA graphs need a GPU, found {device.type}"
    if train.cuda_graph is False:
        return "train.cuda_graph=false"
    if world_size() > 1:
        return f"the {world_size()} processes talk to each other within a step"
    if objective.not_in_graph:
        why = f"terms.{objective.not_in_graph[0]} computes on the host"
        if train.cuda_graph is True:
            raise ConfigError(f"train.cuda_graph=true, and {why}: leave it at auto")
        return why
    return None


def build_step(
    objective: nn.Module,
    draw: Callable[[Batch], Batch],
    optimizer: torch.optim.Optimizer,
    optim: OptimSettings,
    train: TrainSettings,
    device: torch.device,
    graph: bool = False,
) -> EagerStep | GraphStep:
    """The step of a training run; see :func:`check_step` for what cannot be had.

    Args:
        objective: ``forward(batch) -> output`` with ``.losses``, ``total(losses)`` and, in several
            processes, ``trains_all``: whether that gives every parameter a gradient.
        draw: makes the batch of a step from its inputs, on the device alone.
        optimizer: of its parameters, built for a graph if ``graph``.
        graph: whether to record the step, see :func:`no_graph`.
    """
    step = EagerStep(
        _runnable(objective, train, device), objective, draw, optimizer, optim, train, device
    )
    return GraphStep(step, required=train.cuda_graph is True) if graph else step


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
    """Draws a batch from its inputs, then forward, backward, clipping and update, and adds up what
    is reported of an epoch in ``sums``; gives the output of the objective."""

    def __init__(
        self,
        model: nn.Module,
        objective: nn.Module,
        draw: Callable[[Batch], Batch],
        optimizer: torch.optim.Optimizer,
        optim: OptimSettings,
        train: TrainSettings,
        device: torch.device,
    ):
        self.model, self.objective, self.draw = model, objective, draw
        self.optimizer, self.clip, self.sums = optimizer, optim.clip_grad, Sums()
        # made only if asked for: a GPU without bfloat16 refuses it
        self.precision = {
            "none": contextlib.nullcontext,
            "bf16": lambda: torch.autocast(device.type, torch.bfloat16),
        }[train.amp]()

    def __call__(self, inputs: Batch) -> Any:
        batch = self.draw(inputs)
        with self.precision:
            output = self.model(batch)
        total = self.objective.total(output.losses)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip)
        self.optimizer.step()
        self.sums.add(output)
        return output


class GraphStep:
    """An :class:`EagerStep` recorded once as a CUDA graph and replayed: one launch per step.

    A graph reads and writes the same memory every time, so inputs are copied into buffers and must
    all have the shapes of the first ones; what a replay returns is overwritten by the next. The
    first ``WARM_UP`` steps are eager ones, on a stream of their own, and count like any other. What
    makes the host wait for the device cannot be recorded: the last of them looks out for it.

    Where the step cannot be recorded, all steps are eager ones, and ``refusal`` says why; with
    ``required`` that is a RunError.
    """

    def __init__(self, step: EagerStep, required: bool = False):
        self.step, self.sums, self.required = step, step.sums, required
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.refusal: str | None = None
        self.inputs: Batch = {}
        self.output: Any = None
        self.warm_ups = 0

    def __call__(self, inputs: Batch) -> Any:
        if self.refusal:
            return self.step(inputs)
        if not self.inputs:
            self.inputs = {name: value.clone() for name, value in inputs.items()}
        for name, buffer in self.inputs.items():
            buffer.copy_(inputs[name])
        if self.warm_ups < WARM_UP:
            return self._warm_up()
        if self.graph is None and not self._record():  # which computes nothing
            return self.step(inputs)
        self.graph.replay()
        return self.output

    def _warm_up(self) -> Any:
        self.warm_ups += 1
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            if self.warm_ups < WARM_UP:
                output = self.step(self.inputs)
            else:
                with _waits_noticed() as places:
                    output = self.step(self.inputs)
        here.wait_stream(self.stream)
        if self.warm_ups == WARM_UP and places:
            self._give_up(f"{places[0]} makes the host wait for the device")
        return output

    def _record(self) -> bool:
        self.step.optimizer.zero_grad(set_to_none=True)  # the graph makes gradients of its own
        self.graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # On the stream of the warm-ups: a node of a backward pass belongs to the stream that it
            # was made on, and an output that somebody still holds keeps those of the parameters
            # alive. Other threads (a loader's, which pins memory) may go on calling CUDA meanwhile.
            with torch.cuda.graph(
                self.graph, stream=self.stream, capture_error_mode="thread_local"
            ):
                self.output = self.step(self.inputs)
        except RuntimeError as error:
            _leave_recording(self.graph, here)
            self.graph = None
            cause = error.__context__ or error  # ending a broken recording fails as well
            self._give_up(f"recording failed ({str(cause).splitlines()[0]})")
            return False
        return True

    def _give_up(self, why: str) -> None:
        if self.required:
            raise RunError(
                f"train.cuda_graph=true, and {why}: leave it at auto, or mend what waits"
            )
        self.refusal = why
        print(f"steps are not recorded as a CUDA graph: {why}", flush=True)


def _leave_recording(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
    """What PyTorch leaves undone where ending a recording fails."""
    torch.cuda.set_stream(stream)
    device = torch.cuda.current_device()
    with contextlib.suppress(RuntimeError):  # or memory of other streams would be kept for ever
        torch._C._cuda_endAllocateToPool(device, graph.pool())
    # the generator still expects to be recorded, and would refuse every dropout from here on
    generator = torch.cuda.default_generators[device]
    generator.graphsafe_set_state(generator.clone_state())


@contextlib.contextmanager
def _waits_noticed() -> Iterator[list[str]]:
    """Collects where, within, the host waited for the device: ``folder/file.py:line``."""
    places: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in found:
        if WAITS in str(warning.message):
            places.append(f"{'/'.join(Path(warning.filename).parts[-2:])}:{warning.lineno}")
