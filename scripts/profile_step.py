"""What a training step spends its time on: the share of each kind of work, student by student.

    python -m scripts.profile_step                              expt/profile_<device>.txt
    python -m scripts.profile_step --encoders dgcnn --amp bf16 --batch 4 --steps 1

Steps with distillation by each student's own recipe, after a warm-up, under PyTorch's profiler: CPU
time, or the time of the CUDA kernels that each operator launched. An operator belongs to the
outermost one around it whose name says what it is for, so what a product calls counts as a product.
The time by the clock is taken without the profiler: what it has beyond that of the kernels, the GPU
spends waiting for the host. On a GPU the second one is that of a step as trainings take it, which
is one CUDA graph.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from scripts.benchmarks.measure import machine, seconds
from scripts.benchmarks.training import Training, make_training
from utils.config import not_negative, positive
from utils.device import choose_device, prepare_process
from utils.errors import ConfigError, run_main
from utils.files import atomic_path, check_place
from utils.step import WARM_UP, Batch

ENCODERS = ("pointnet", "pointnet2_ssg", "dgcnn", "curvenet")
DATA = "a batch of data"  # the mark around drawing one
# Kinds of work and beginnings of the names of their operators; the first kind that fits counts.
# A backward pass has the same operators, and those called <Name>Backward around them.
KINDS = {
    "data": (DATA,),
    "optimiser": ("Optimizer.", "aten::_foreach"),  # those outside it clip the gradient
    "projection": (
        *("point_kernels::visible_max", "GeneratedBackwardFor_point_kernels_visible_max"),
        "point_kernels::pack_views",
    ),
    # first: as operators these belong to the kernels, and the kernels are the kind that follows
    "pooling, gathering": (
        *("point_kernels::neighbour", "GeneratedBackwardFor_point_kernels_neighbour"),
        *("aten::max", "aten::amax", "aten::mean", "Max", "Amax", "Mean", "_MaxOverRows"),
        *("aten::embedding_bag", "aten::_embedding_bag", "EmbeddingBag", "aten::index", "Index"),
        *("aten::gather", "Gather", "aten::scatter", "Scatter", "aten::cat", "Cat"),
    ),
    "point operations": (
        "point_kernels::",
        *("aten::topk", "aten::sort", "aten::argmax", "aten::cdist", "aten::bitwise"),
        "aten::nonzero",
    ),
    "loss": (
        *("aten::cross_entropy", "aten::log_softmax", "aten::_log_softmax", "aten::nll_loss"),
        *("NllLoss", "LogSoftmax", "aten::l1_loss", "aten::cosine_similarity", "aten::abs"),
        "AbsBackward",
    ),
    "matrix products": (
        *("aten::linear", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul"),
        *("MmBackward", "AddmmBackward", "BmmBackward", "aten::conv", "Convolution"),
    ),
    "normalisation, activation": (
        *("aten::batch_norm", "aten::native_batch_norm", "NativeBatchNorm", "aten::_batch_norm"),
        *("aten::relu", "Relu", "aten::leaky_relu", "LeakyRelu", "aten::threshold"),
        *("aten::dropout", "aten::native_dropout", "NativeDropout", "CudnnBatchNorm"),
        *("aten::cudnn_batch_norm", "aten::softmax", "aten::_softmax", "Softmax"),
        *("NormAct", "aten::addcmul", "Addcmul", "aten::var_mean", "VarMean"),
    ),
}
OTHER = "other (sums, copies, host)"
ENGINE = "autograd::engine::evaluate_function: "


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoders", default=",".join(ENCODERS), help="with commas between them")
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--points", type=positive, default=1024)
    parser.add_argument("--amp", choices=["none", "bf16"], default="bf16")
    parser.add_argument("--warm-up", type=positive, default=3, help="steps before the first counts")
    parser.add_argument("--steps", type=positive, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    parser.add_argument("--output", type=Path, help="default: expt/profile_<device>.txt")
    options = parser.parse_args(arguments)
    options.encoders = [name for name in options.encoders.split(",") if name]
    return options


def classify(name: str) -> str | None:
    """The kind of work that an operator's name tells, or None."""
    name = name.removeprefix(ENGINE)
    return next((kind for kind, beginnings in KINDS.items() if name.startswith(beginnings)), None)


def kind_of(event: FunctionEvent) -> str:
    """The kind of an event: that of the outermost event around it, or its own, which tells one."""
    found = None
    while event is not None:
        found = classify(event.name) or found
        event = event.cpu_parent
    return found or OTHER


def milliseconds_by_kind(events: Iterable[FunctionEvent], on_cuda: bool) -> dict[str, float]:
    """Time of all events by kind, each event without those inside it; every kind is there."""
    total: Counter[str] = Counter(dict.fromkeys([*KINDS, OTHER], 0.0))
    for event in events:
        if event.device_type == torch.autograd.DeviceType.CPU:
            spent = event.self_device_time_total if on_cuda else event.self_cpu_time_total
            total[kind_of(event)] += spent / 1e3
    return dict(total)


def profile_training(training: Training, warm_up: int, steps: int) -> dict[str, float]:
    """Milliseconds of one eager step by kind of work, the mean of ``steps``."""
    for _ in range(warm_up):
        training.step()
    on_cuda, draw = training.index.is_cuda, training.run.draw

    def marked(inputs: Batch) -> Batch:
        with record_function(DATA):
            return draw(inputs)

    training.run.draw = marked
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            training.step()
        if on_cuda:
            torch.cuda.synchronize()
    spent = milliseconds_by_kind(profiler.events(), on_cuda)
    return {kind: time / steps for kind, time in spent.items()}


def measure(
    encoder: str, options: argparse.Namespace, device: torch.device
) -> tuple[dict[str, float], list[float]]:
    """What :func:`lines` shows of a student."""
    make = partial(make_training, encoder, options.batch, options.points, device, options.amp)
    training = make()
    spent = profile_training(training, options.warm_up, options.steps)
    walls = [1e3 * seconds(training.step, device, options.steps)]
    if device.type == "cuda":
        training = make(graph=True)
        for _ in range(WARM_UP + 1):  # the last of them records
            training.step()
        walls.append(1e3 * seconds(training.step, device, options.steps))
    return spent, walls


def lines(title: str, spent: dict[str, float], walls: list[float]) -> str:
    """A student's table as text, the largest share first; ``walls``: milliseconds of a step, taken
    eagerly and, if it is there, in a CUDA graph."""
    total = sum(spent.values())
    rows = sorted(spent.items(), key=lambda item: -item[1])
    body = "".join(
        f"  {kind:28}{time:10.2f} ms{100 * time / total:6.1f} %\n" for kind, time in rows
    )
    clock = ", in a CUDA graph ".join(f"{wall:.2f} ms" for wall in walls)
    return f"{title}: {total:.2f} ms, by the clock {clock}\n{body}"


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    unknown = set(options.encoders) - set(ENCODERS)
    if unknown or not options.encoders:
        raise ConfigError(f"--encoders: found {sorted(unknown)}, expected some of {ENCODERS}")
    device = choose_device(options.device)
    output = options.output or Path("expt") / f"profile_{device.type}.txt"
    check_place(output)
    prepare_process(device, options.threads)
    about = machine(device)
    counted = "time of CUDA kernels" if device.type == "cuda" else "CPU time"
    text = (
        f"One training step with distillation, {counted}, mean of {options.steps} steps after "
        f"{options.warm_up}.\nB={options.batch} N={options.points}, {options.amp}; "
        f"{about['device']} ({about['machine']}), PyTorch {about['torch']}, kernels: "
        f"{about['kernels']}, {about['date']}, commit {about['commit']}\n"
    )
    print(text, flush=True)
    for encoder in options.encoders:
        spent, walls = measure(encoder, options, device)
        found = lines(encoder, spent, walls)
        print(found, flush=True)
        text += f"\n{found}"
    with atomic_path(output) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    run_main(main)
