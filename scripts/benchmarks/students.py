"""A forward and backward pass of each student, the same weights in the published layout and ours;
and a whole training step of ours with distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.release.convert import convert
from scripts.benchmarks.contest import Contest, Sizes, expect
from scripts.benchmarks.inputs import clouds, labels
from scripts.benchmarks.training import make_training
from scripts.reference import curvenet, pointmcd_students, pointnet2
from utils.step import WARM_UP

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "pointnet": pointmcd_students.PointNetCls,
    "pointnet2_ssg": pointnet2.Classification,
    "dgcnn": pointmcd_students.DGCNNCls,
    "curvenet": curvenet.CurveNet,
}
STEPS = {  # what train.amp and train.cuda_graph say
    "float32": ("none", False),
    "bf16": ("bf16", False),
    "bf16, CUDA graph": ("bf16", True),
}
CHECKED = 2  # clouds: double precision for more would take longer than the contest
# Float32 and double precision choose differently between neighbours, maxima and curves that are
# nearly equal, and each such choice moves gradients as a whole. An operation that is wrong changes
# logits and gradients by about their own size.
LOGITS, GRADIENTS = 0.05, 0.4


def contests(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], Contest]]:
    found = {f"{name}, fp + bp": partial(student, name, sizes, device) for name in NETWORKS}
    for name in NETWORKS:
        for words, (amp, graph) in STEPS.items():
            if graph and device.type != "cuda":
                continue
            title = f"{name}, training step, distilled, {words}"
            found[title] = partial(training_step, name, amp, graph, sizes, device)
    return found


def student(name: str, sizes: Sizes, device: torch.device) -> Contest:
    torch.manual_seed(0)
    published = NETWORKS[name]().to(device)
    ours = convert(published.state_dict(), name).network.to(device)
    batch, count = sizes.students
    points, target = clouds(batch, count, device), labels(batch, device)
    forms = {
        "published": partial(step, published.train(), points, target),
        "ours": partial(step, ours.train(), points, target),
    }
    check = partial(check_student, name, published, points[:CHECKED], target[:CHECKED])
    return Contest(f"B={batch} N={count}, float32", forms, check, batch)


def step(network: nn.Module, points: Tensor, target: Tensor) -> Tensor:
    """Logits (B, K), after a backward pass of the cross-entropy."""
    network.zero_grad(set_to_none=True)
    output = network(points)
    logits = output["logits"] if isinstance(output, Mapping) else output.logits
    F.cross_entropy(logits, target).backward()
    return logits.detach()


def check_student(name: str, published: nn.Module, points: Tensor, target: Tensor) -> None:
    """Logits and all gradients in training mode, without dropout, against double precision.

    Normalisations of one row per cloud use their running statistics: over so few rows they enlarge
    the last digit without bound.
    """
    # ours anew: the running statistics of the two have seen different dropout
    ours = convert(published.state_dict(), name).network.to(points.device).train()
    published = copy.deepcopy(published).double()
    for module in (*published.modules(), *ours.modules()):
        if isinstance(module, nn.Dropout):
            module.eval()
    with of_few_rows(published) as few:
        expected = step(published, points.double(), target)
    for key, value in translate(name, published, {f"{norm}.weight": 1.0 for norm in few}).items():
        if value.any():
            ours.get_submodule(key.removesuffix(".weight")).eval()
    found = step(ours, points, target)
    error = relative(found, expected)
    expect(error < LOGITS, name, f"the logits by {100 * error:.2g} %")
    slopes = {k: p.grad for k, p in published.named_parameters() if p.grad is not None}
    expected = translate(name, published, slopes)
    pairs = [(p.grad, expected[key]) for key, p in ours.named_parameters() if p.grad is not None]
    mine, theirs = (torch.cat([g.flatten() for g in side]) for side in zip(*pairs, strict=True))
    error = relative(mine, theirs)
    expect(error < GRADIENTS, name, f"the gradients by {100 * error:.2g} %")


@contextmanager
def of_few_rows(network: nn.Module) -> Iterator[list[str]]:
    """Names of the normalisations that a pass gives ``CHECKED`` rows; they then do not train."""
    found: list[str] = []
    hooks = []

    def look(name: str, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].numel() // inputs[0].shape[1] <= CHECKED:
            norm.eval()
            found.append(name)

    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            hooks.append(module.register_forward_pre_hook(partial(look, name)))
    yield found
    for hook in hooks:
        hook.remove()


def translate(
    name: str, published: nn.Module, values: Mapping[str, Tensor | float]
) -> dict[str, Tensor]:
    """``values`` of published parameters under our names and in our shapes, 0 for all others.

    By the table that gives our network its weights.
    """
    state = {key: torch.zeros_like(value) for key, value in published.state_dict().items()}
    for key, value in values.items():
        state[key] += value
    return {k: p.detach() for k, p in convert(state, name).network.named_parameters()}


def relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def training_step(name: str, amp: str, graph: bool, sizes: Sizes, device: torch.device) -> Contest:
    training = make_training(name, *sizes.students, device, amp, graph)
    for _ in range(WARM_UP if graph else 0):  # the first pass is then the one that records
        training.step()

    def check() -> None:
        finite = bool(torch.isfinite(training.step()))
        expect(finite, name, "the loss of a training step is not finite")

    batch, count = sizes.students
    size = f"B={batch} N={count}, augmentation, losses, optimiser"
    return Contest(size, {"ours": training.step}, check, batch)
