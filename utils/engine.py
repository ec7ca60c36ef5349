"""The one training loop. Teachers and students differ only in the objective and the task that
they hand to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils import startup
from utils.device import describe, peak_memory, seed_everything
from utils.distributed import gather_objects, is_main, rank, share_buffers, world_size
from utils.errors import RunError
from utils.meters import EpochClock
from utils.optim import build_optimizer, build_schedule, load_optimizer
from utils.run import Run, source_commit
from utils.settings import OptimSettings, TrainSettings
from utils.step import EagerStep, GraphStep, build_step, no_graph
from utils.tasks import Task

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Batch = dict[str, Tensor]
LOOK_EVERY = 20  # steps between two looks at the losses, for the progress bar
PICTURED = 4  # shapes


class Batches(Protocol):
    """The batches of a process, epoch by epoch, each a dict with ``index``, in two parts: what
    differs between steps, and what is made of it on the device alone, by every step for itself."""

    steps: int  # of an epoch
    waited: float  # seconds in which the host had to wait for inputs, all told

    def inputs(self, epoch: int) -> Iterator[Batch]: ...

    def draw(self, inputs: Batch) -> Batch: ...


@dataclass
class Training:
    """What an entry script hands to :func:`fit`.

    ``objective``: module with ``network``, ``forward(batch) -> output`` (``.losses`` and, for the
    accuracy of training, ``.logits`` and ``.target`` or None) and ``total(losses)``. ``batches``:
    what it learns from. ``watched``: shapes that are looked at meanwhile, as batches
    ``watched.evaluation(batch_size)``. ``task``: what is measured and drawn of them.
    """

    objective: nn.Module
    batches: Batches
    watched: Any
    task: Task

    def evaluate(self) -> dict[str, np.ndarray]:
        """Outputs on the watched shapes, as :func:`predict` gives them."""
        batches = self.watched.evaluation(self.task.batch)
        return predict(self.objective.network, batches, self.task.compute)

    def draw(self, writer: SummaryWriter, epoch: int, outputs: dict[str, np.ndarray]) -> None:
        """Images and embeddings for TensorBoard."""
        self.task.draw(
            writer,
            epoch,
            outputs,
            batch=self.batches.draw(next(self.batches.inputs(epoch))),
            few=lambda: next(iter(self.watched.evaluation(PICTURED))),
        )


def fit(
    training: Training, optim: OptimSettings, train: TrainSettings, run: Run, device: torch.device
) -> dict[str, Any]:
    """Train for ``train.epochs`` epochs, resuming where ``run`` was left.

    Every epoch is seeded by (seed, epoch, rank) and the state is written after it, so that a run
    that was killed ends with the same weights as one that was not (bit for bit on a CPU).

    Returns:
        ``{"epoch": ..., "seconds": wall time of all epochs, "memory": at its peak, MiB, of this
        process, "metrics": of the last evaluation, "commit": of the code that began the run}``.

    Raises:
        RunError: a loss or a weight that is not finite.
    """
    objective = training.objective
    eager = no_graph(objective, train, device)
    optimizer = build_optimizer(optim, objective, in_graph=eager is None)
    history = {"epoch": 0, "seconds": 0.0, "metrics": {}, "commit": source_commit()}
    state = run.load_state()
    if state is not None:
        objective.load_state_dict(state["objective"])
        load_optimizer(optimizer, state["optimizer"])
        history = state["history"]
        if is_main():
            done = history["epoch"] == train.epochs
            doing = "already trained:" if done else "resuming"
            more = "; run.overwrite=true trains it anew" if done else ""
            print(f"{doing} {run.folder}, {history['epoch']} of {train.epochs} epochs{more}")
    schedule = build_schedule(optim, optimizer, train.epochs, history["epoch"])
    draw = training.batches.draw
    step = build_step(objective, draw, optimizer, optim, train, device, graph=eager is None)
    if is_main():
        how = f"eagerly: {eager}" if eager else "each as one CUDA graph"
        print(f"{describe(device)}, train.amp={train.amp}; steps are taken {how}")
    startup.mark("optimiser and state")
    writer = None
    for epoch in range(history["epoch"], train.epochs):
        seed_everything(train.seed, epoch, rank())
        start = time.perf_counter()
        scalars = _train_epoch(step, training, train, epoch)
        seconds = time.perf_counter() - start
        writer = writer or _open_writer(run, epoch)
        scalars["lr"] = float(schedule.get_last_lr()[0])
        done = epoch + 1
        if done % train.eval_every == 0 or done == train.epochs:
            share_buffers(objective)
            outputs = training.evaluate()
            history["metrics"] = training.task.measure(outputs)
            scalars.update(history["metrics"])
            if writer and train.pictures:
                training.draw(writer, done, outputs)
        history["epoch"] = done
        history["seconds"] += seconds
        history["memory"] = max(history.get("memory", 0.0), peak_memory(device))
        _report(run, writer, done, train.epochs, scalars, seconds)
        run.save_state(
            {
                "objective": objective.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
            }
        )
        schedule.step()
    if writer:
        writer.close()
    return history


def _open_writer(run: Run, epoch: int) -> SummaryWriter | None:
    """TensorBoard's, which drops events of this or a later epoch that a killed run left."""
    if not is_main():
        return None
    from torch.utils.tensorboard import SummaryWriter  # takes half a second

    return SummaryWriter(run.folder / "tensorboard", purge_step=epoch + 1)


def _say_how_it_started(device: torch.device) -> None:
    if startup.told():
        return
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    startup.mark("first step")
    started = startup.tell()
    if is_main():
        print(f"first step done after {started}", flush=True)


def _train_epoch(
    step: EagerStep | GraphStep, training: Training, train: TrainSettings, epoch: int
) -> dict[str, float]:
    """One pass over the batches: the means of its losses, accuracy, shapes per second over all
    processes, and the share of the time in which the host waited for data, in percent."""
    training.objective.train()
    sums, batches = step.sums, training.batches
    sums.begin(epoch)
    clock = EpochClock(lambda: batches.waited)
    bar = tqdm(
        batches.inputs(epoch),
        total=batches.steps,
        desc=f"epoch {epoch + 1}/{train.epochs}",
        leave=False,
        disable=None if is_main() else True,  # None: only on a terminal
        unit="step",
    )
    for inputs in bar:
        step(inputs)
        if sums.steps == 0:
            _say_how_it_started(inputs["index"].device)
        sums.count(len(inputs["index"]))
        if sums.steps % LOOK_EVERY == 0:
            means = sums.peek()
            if means and not bar.disable:
                shown = {name: f"{value:.3f}" for name, value in means.items()}
                rate = sums.shapes * world_size() / clock.seconds
                bar.set_postfix(
                    shown | {"shapes/s": f"{rate:.0f}", "waiting": f"{clock.waiting:.0f}%"}
                )
    scalars = sums.means()  # the one place where the host waits for the device
    _stop_if_weights_broke(training.objective, epoch)
    scalars["throughput"] = sums.shapes * world_size() / clock.seconds
    scalars["waiting"] = clock.waiting
    return scalars


def _stop_if_weights_broke(objective: nn.Module, epoch: int) -> None:
    """The last step of an epoch may break the weights after its loss was found finite."""
    state = objective.state_dict()
    finite = torch.stack([torch.isfinite(value).all() for value in state.values()]).tolist()
    broken = [name for name, whole in zip(state, finite, strict=True) if not whole]
    if broken:
        raise RunError(
            f"{broken[0]} ({len(broken)} in all) is not finite after epoch {epoch + 1}; the state "
            f"after epoch {epoch} is kept. Lower optim.lr or set optim.clip_grad"
        )


def _report(
    run: Run,
    writer: SummaryWriter | None,
    epoch: int,
    epochs: int,
    scalars: dict[str, float],
    seconds: float,
) -> None:
    """One line on the terminal, one in the log, one point in every TensorBoard curve."""
    if not is_main():
        return
    for name, value in scalars.items():
        writer.add_scalar(name, value, epoch)
    rounded = {name: round(value, 5) for name, value in scalars.items()}
    record = {"epoch": epoch, "seconds": round(seconds, 2), **rounded}
    run.log_epoch(record | startup.for_the_log())
    shown = "  ".join(
        f"{name.removeprefix('loss/')} {value:.4g}" for name, value in scalars.items()
    )
    print(f"epoch {epoch}/{epochs}  {shown}", flush=True)


@torch.no_grad()
def predict(
    network: nn.Module, batches: Iterable[Batch], compute: Callable[[Batch], dict[str, Tensor]]
) -> dict[str, np.ndarray]:
    """What ``compute`` makes of every shape, with the network in evaluation mode.

    Args:
        batches: this process's share, each with ``index`` and ``label``.
        compute: the forward pass and what to keep of it, by name, first axis B.

    Returns:
        ``index``, ``label`` and what was kept as arrays over all shapes of all processes, in the
        order of the indices; floating values in float32. The network is left in training mode if it
        was in it.
    """
    was_training = network.training
    network.eval()
    sent: list[dict[str, Tensor]] = []
    for batch in batches:
        kept = {**compute(batch), "index": batch["index"], "label": batch["label"]}
        sent.append({name: _send_to_host(value) for name, value in kept.items()})
    network.train(was_training)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # what was sent has arrived
    rows = [{name: value.numpy() for name, value in row.items()} for row in sent]
    rows = [row for share in gather_objects(rows) for row in share]
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    order = np.argsort(joined["index"])
    return {name: value[order] for name, value in joined.items()}


def _send_to_host(value: Tensor) -> Tensor:
    value = value.float() if value.is_floating_point() else value
    return value.to("cpu", non_blocking=True)
