"""The one training loop. Teachers and students differ only in the method they hand to it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils.device import seed_everything
from utils.distributed import average, gather_objects, is_main, rank, share_buffers, world_size
from utils.errors import RunError
from utils.run import Run, source_commit
from utils.settings import OptimSettings, TrainSettings

Batch = dict[str, Tensor]


@dataclass
class Work:
    """What an entry script hands to :func:`fit`.

    ``method``: module with ``forward(batch) -> output`` (``.losses`` and, for the accuracy of
    training, ``.logits`` and ``.target`` or None) and ``total(losses)``. ``batches(epoch)``: the
    batches of this process, on the device, each a dict with ``index``. ``steps``: their number.
    ``evaluate()``: outputs on the watched shapes, as :func:`predict` gives them.
    ``measure(outputs)``: metrics by name, for the log. ``pictures(writer, epoch, outputs)``: images
    and embeddings for TensorBoard.
    """

    method: nn.Module
    batches: Callable[[int], Iterable[Batch]]
    steps: int
    evaluate: Callable[[], dict[str, np.ndarray]]
    measure: Callable[[dict[str, np.ndarray]], dict[str, float]]
    pictures: Callable[[SummaryWriter, int, dict[str, np.ndarray]], None]


@dataclass
class EpochSums:
    """Sums over an epoch, kept on the device so that no step waits for the host."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    correct: Tensor | None = None
    judged: Tensor | None = None  # targets that are not ignored
    shapes: int = 0
    steps: int = 0

    def add(self, output: Any, shapes: int) -> None:
        for name, value in output.losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value.detach()
        if output.target is not None:
            hits = output.logits.argmax(dim=-1) == output.target
            correct, judged = hits.sum(), (output.target >= 0).sum()
            self.correct = correct if self.correct is None else self.correct + correct
            self.judged = judged if self.judged is None else self.judged + judged
        self.shapes += shapes
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Mean of every term and the training accuracy, if there is one, over all processes."""
        values = {f"loss/{name}": self.losses[name].float() / self.steps for name in self.losses}
        if self.correct is not None:
            values["train/accuracy"] = 100.0 * self.correct.float() / self.judged.clamp(min=1)
        names = sorted(values)
        averaged = average(torch.stack([values[name] for name in names])).tolist()
        return dict(zip(names, averaged, strict=True))


def learning_rate(settings: OptimSettings, epoch: int, epochs: int) -> float:
    """The rate of an epoch (counted from 0): cosine to ``final_lr``, or steps down to it."""
    if settings.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return settings.final_lr + (settings.lr - settings.final_lr) * share
    stepped = settings.lr * settings.step_factor ** (epoch // settings.step_epochs)
    return max(stepped, settings.final_lr)


def build_optimizer(settings: OptimSettings, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """SGD with momentum or Adam, weight decay on all parameters as in the papers."""
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.Adam(parameters, settings.lr, weight_decay=settings.weight_decay)


def fit(
    work: Work, optim: OptimSettings, train: TrainSettings, run: Run, device: torch.device
) -> dict[str, Any]:
    """Train for ``train.epochs`` epochs, resuming where ``run`` was left.

    Every epoch is seeded by (seed, epoch, rank) and the state is written after it, so that a run
    that was killed ends with the same weights as one that was not (bit for bit on a CPU).

    Returns:
        ``{"epoch": ..., "seconds": wall time of all epochs, "metrics": of the last evaluation,
        "commit": of the code that began the run}``.

    Raises:
        RunError: a loss or a weight that is not finite.
    """
    method = work.method
    optimizer = build_optimizer(optim, method.parameters())
    history = {"epoch": 0, "seconds": 0.0, "metrics": {}, "commit": source_commit()}
    state = run.load_state()
    if state is not None:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
        if is_main():
            done = history["epoch"] == train.epochs
            doing = "already trained:" if done else "resuming"
            print(f"{doing} {run.folder}, {history['epoch']} of {train.epochs} epochs")
    model = _distribute(method, device)
    writer = (
        SummaryWriter(run.folder / "tensorboard", purge_step=history["epoch"] + 1)
        if is_main()
        else None
    )
    for epoch in range(history["epoch"], train.epochs):
        seed_everything(train.seed, epoch, rank())
        rate = learning_rate(optim, epoch, train.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        start = time.perf_counter()
        scalars = _train_epoch(model, work, optimizer, optim, train, epoch, device)
        seconds = time.perf_counter() - start
        scalars["throughput"] = scalars.pop("shapes") * world_size() / seconds
        scalars["lr"] = rate
        done = epoch + 1
        if done % train.eval_every == 0 or done == train.epochs:
            share_buffers(method)
            outputs = work.evaluate()
            history["metrics"] = work.measure(outputs)
            scalars.update(history["metrics"])
            if writer and train.pictures:
                work.pictures(writer, done, outputs)
        history["epoch"] = done
        history["seconds"] += seconds
        _report(run, writer, done, train.epochs, scalars, seconds)
        run.save_state(
            {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        )
    if writer:
        writer.close()
    return history


def _distribute(method: nn.Module, device: torch.device) -> nn.Module:
    if world_size() == 1:
        return method
    # A weight of 0 leaves parameters without gradient (the classifier, in pre-training).
    return DistributedDataParallel(
        method,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=True,
    )


def _train_epoch(
    model: nn.Module,
    work: Work,
    optimizer: torch.optim.Optimizer,
    optim: OptimSettings,
    train: TrainSettings,
    epoch: int,
    device: torch.device,
) -> dict[str, float]:
    """One pass over the batches; the means of its losses, accuracy and number of shapes."""
    model.train()
    sums = EpochSums()
    precision = (
        torch.autocast(device.type, torch.bfloat16)
        if train.amp == "bf16"
        else contextlib.nullcontext()
    )
    bar = tqdm(
        work.batches(epoch),
        total=work.steps,
        desc=f"epoch {epoch + 1}/{train.epochs}",
        leave=False,
        disable=None if is_main() else True,  # None: only on a terminal
        unit="step",
    )
    for batch in bar:
        with precision:
            output = model(batch)
        total = work.method.total(output.losses)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if optim.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        optimizer.step()
        sums.add(output, len(batch["index"]))
        if sums.steps % 20 == 0 or sums.steps == work.steps:
            _stop_if_not_finite(sums, epoch)
            if not bar.disable:
                bar.set_postfix({k: f"{float(v) / sums.steps:.3f}" for k, v in sums.losses.items()})
    _stop_if_weights_broke(work.method, epoch)
    return {**sums.means(), "shapes": sums.shapes}


def _stop_if_not_finite(sums: EpochSums, epoch: int) -> None:
    broken = [name for name, value in sums.losses.items() if not torch.isfinite(value)]
    if broken:
        raise RunError(
            f"loss {', '.join(broken)} is not finite in epoch {epoch + 1}, at or before step "
            f"{sums.steps}; the state after epoch {epoch} is kept. Lower optim.lr or set optim.clip"
        )


def _stop_if_weights_broke(method: nn.Module, epoch: int) -> None:
    """The last step of an epoch may break the weights after its loss was found finite."""
    state = method.state_dict().items()
    broken = [name for name, value in state if not torch.isfinite(value).all()]
    if broken:
        raise RunError(
            f"{broken[0]} ({len(broken)} in all) is not finite after epoch {epoch + 1}; the state "
            f"after epoch {epoch} is kept. Lower optim.lr or set optim.clip"
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
    run.log_epoch({"epoch": epoch, "seconds": round(seconds, 2), **rounded})
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
    rows: list[dict[str, np.ndarray]] = []
    for batch in batches:
        kept = {**compute(batch), "index": batch["index"], "label": batch["label"]}
        rows.append({name: _to_host(value) for name, value in kept.items()})
    network.train(was_training)
    rows = [row for share in gather_objects(rows) for row in share]
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    order = np.argsort(joined["index"])
    return {name: value[order] for name, value in joined.items()}


def _to_host(value: Tensor) -> np.ndarray:
    return (value.float() if value.is_floating_point() else value).cpu().numpy()
