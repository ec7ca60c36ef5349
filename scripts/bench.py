"""Speed and memory of the visibility-aware projection against the published form, in one run.

    python -m scripts.bench [--threads 2] [--rounds 3] [--json FILE]

Both forms pool the same embeddings, forward and backward, one after the other in every round; the
table gives medians and their ratio. Extra memory is what a form needs beside its inputs, its output
and the gradient of the embeddings: the largest resident size on a CPU (measured in a process of its
own), the allocator's peak on CUDA.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from models.projection import visible_max_pool
from utils.config import not_negative, positive
from utils.device import choose_device, describe
from utils.errors import run_main
from utils.files import atomic_path


def published_max_pool(point_features: Tensor, visibility: Tensor) -> Tensor:
    """Repeat for every view, multiply, maximum: (B, M, C), (B, M, V) -> (B, V, C)."""
    views = visibility.shape[2]
    repeated = point_features.unsqueeze(1).repeat(1, views, 1, 1)  # (B, V, M, C)
    mask = visibility.transpose(1, 2).unsqueeze(3).to(point_features.dtype)
    return (repeated * mask).max(dim=2).values


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "published": published_max_pool,
    "ours": visible_max_pool,
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=positive, default=32)
    parser.add_argument("--points", type=positive, default=1024)
    parser.add_argument("--channels", type=positive, default=1024)
    parser.add_argument("--views", type=positive, default=12)
    parser.add_argument("--visible", type=float, default=0.38, help="share of points a view sees")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(arguments)


def inputs(options: argparse.Namespace, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (after a ReLU), visibility and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.points, options.channels)
    features = torch.randn(shape, generator=generator).relu_().to(device).requires_grad_()
    seen = torch.rand(options.batch, options.points, options.views, generator=generator)
    upstream = torch.randn(options.batch, options.views, options.channels, generator=generator)
    return features, (seen < options.visible).to(device), upstream.to(device)


def step(form: str, features: Tensor, visibility: Tensor, upstream: Tensor) -> None:
    features.grad = None
    FORMS[form](features, visibility).backward(upstream)


def seconds(form: str, tensors: tuple[Tensor, Tensor, Tensor]) -> float:
    """Wall time of one forward and backward pass."""
    if tensors[0].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    step(form, *tensors)
    if tensors[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def extra_memory(form: str, options: argparse.Namespace) -> float:
    """MiB beside inputs, output and gradient; on a CPU only right in a fresh process."""
    device = choose_device(options.device)
    tensors = inputs(options, device)
    features, _, upstream = tensors
    kept = (features.nbytes + upstream.nbytes) / 2**20  # the gradient and the output
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(form, *tensors)
        return (torch.cuda.max_memory_allocated() - before) / 2**20 - kept
    tiny = argparse.Namespace(**vars(options) | {"batch": 1, "points": 8, "channels": 8})
    step(form, *inputs(tiny, device))  # what the first call of an operation loads is not its need
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(form, *tensors)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10 - kept


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {form: pool.apply(extra_memory, (form, options)) for form in FORMS}
    tensors = inputs(options, device)
    for form in FORMS:
        seconds(form, tensors)
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(options.rounds):
        for form in FORMS:
            times[form].append(seconds(form, tensors))
    figures = {
        form: {"milliseconds": 1e3 * median(times[form]), "extra_mib": max(memory[form], 0.0)}
        for form in FORMS
    }
    ratio = figures["published"]["milliseconds"] / figures["ours"]["milliseconds"]
    size = f"B={options.batch} M={options.points} C={options.channels} V={options.views}"
    print(f"projection, {size}, forward and backward, {describe(device)}\n")
    print("| form | median | extra memory |\n|---|---|---|")
    for form, row in figures.items():
        print(f"| {form} | {row['milliseconds']:.0f} ms | {row['extra_mib']:.0f} MiB |")
    print(f"\nours is {ratio:.1f} times faster")
    if options.json:
        content = {"size": size, "device": describe(device), "ratio": ratio, **figures}
        with atomic_path(options.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
