"""A forward and backward pass of each student, the same weights in the published layout and ours;
and a whole training step of ours with distillation."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.curvenet_blocks import Walk
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
PRECISIONS = {"float32": "none", "bf16": "bf16"}  # and what train.amp says
CHECKED = 2  # clouds: double precision for more would take longer than the contest
# Float32 and double precision choose differently between neighbours and maxima that are nearly
# equal, and each such choice moves gradients as a whole. An operation that is wrong changes logits
# and gradients by about their own size.
LOGITS, GRADIENTS = 0.05, 0.4
# CurveNet has its walk given. Measured: 5e-6, 3e-3 and 0.9998; with products rounded as TF32 does
# it 4e-3, 0.13 and 0.988, which is not full precision any more.
LOGITS_WALKED, GRADIENTS_WALKED, SAME_PICKS = 1e-3, 0.05, 0.995


def contests(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], Contest]]:
    found = {f"{name}, fp + bp": partial(student, name, sizes, device) for name in NETWORKS}
    graphs = {"": False, ", CUDA graph": True} if device.type == "cuda" else {"": False}
    for name, batch in product(NETWORKS, sizes.batches):
        for (words, amp), (how, graph) in product(PRECISIONS.items(), graphs.items()):
            if amp != "none" or batch == sizes.batches[0]:
                title = f"{name}, training step, distilled, {words}{how}, B={batch}"
                step = partial(training_step, name, amp, graph, batch, sizes.students[1], device)
                found[title] = step
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
    the last digit without bound. Curves of ours go where the published ones went.

    Raises:
        RunError: they differ.
    """
    # ours anew: the running statistics of the two have seen different dropout
    ours = convert(published.state_dict(), name).network.to(points.device).train()
    published = copy.deepcopy(published).double()
    for module in (*published.modules(), *ours.modules()):
        if isinstance(module, nn.Dropout):
            module.eval()
    alike = follow(published, ours)
    with of_few_rows(published) as few:
        expected = step(published, points.double(), target)
    for key, value in translate(name, published, {f"{norm}.weight": 1.0 for norm in few}).items():
        if value.any():
            ours.get_submodule(key.removesuffix(".weight")).eval()
    found = step(ours, points, target)
    logits, gradients = LOGITS, GRADIENTS
    if alike:
        same = torch.cat([picks.flatten() for picks in alike]).double().mean().item()
        expect(same > SAME_PICKS, name, f"{100 * same:.1f} % of the picks of its walks are equal")
        logits, gradients = LOGITS_WALKED, GRADIENTS_WALKED
    error = relative(found, expected)
    expect(error < logits, name, f"the logits by {100 * error:.2g} %")
    slopes = {k: p.grad for k, p in published.named_parameters() if p.grad is not None}
    expected = translate(name, published, slopes)
    pairs = [(p.grad, expected[key]) for key, p in ours.named_parameters() if p.grad is not None]
    mine, theirs = (torch.cat([g.flatten() for g in side]) for side in zip(*pairs, strict=True))
    error = relative(mine, theirs)
    expect(error < gradients, name, f"the gradients by {100 * error:.2g} %")


def follow(published: nn.Module, ours: nn.Module) -> list[Tensor]:
    """From now on the curves of ``ours`` go where those of ``published`` went in the pass before.

    A curve goes to the maximum of what it may choose from: a last digit that differs takes it
    elsewhere, and all that comes after it. A network without curves stays as it is.

    Returns:
        A list that passes of ``ours`` add to, of every pick whether it would have been its own.
    """
    alike: list[Tensor] = []
    theirs = [module for module in published.modules() if isinstance(module, curvenet.Walk)]
    mine = [module for module in ours.modules() if isinstance(module, Walk)]
    for one, other in zip(theirs, mine, strict=True):
        _follow(one, other, alike)
    return alike


def _follow(theirs: curvenet.Walk, ours: Walk, alike: list[Tensor]) -> None:
    went: deque[Tensor] = deque()  # points (B, n): where curves begin, then where each step leads
    pick_theirs, pick_ours = theirs.pick, ours.pick

    def begin(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        went.append(inputs[2])

    def step(soft: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        chosen, point = pick_theirs(soft, candidates)
        went.append(point)
        return chosen, point

    def begin_there(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, ahead, own = inputs
        start = went.popleft()
        alike.append((own.unsqueeze(2) == start.unsqueeze(1)).any(dim=2))  # in any order
        return x, ahead, start

    def step_there(soft: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        point = went.popleft()
        alike.append(pick_ours(soft, candidates)[1] == point)
        return pick_ours(soft + 2.0 * (candidates == point.unsqueeze(2)), candidates)  # soft <= 1

    theirs.register_forward_pre_hook(begin)
    ours.register_forward_pre_hook(begin_there)
    theirs.pick, ours.pick = step, step_there


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


def training_step(
    name: str, amp: str, graph: bool, batch: int, count: int, device: torch.device
) -> Contest:
    training = make_training(name, batch, count, device, amp, graph)
    for _ in range(WARM_UP if graph else 0):  # the first pass is then the one that records
        training.step()

    def check() -> None:
        finite = bool(torch.isfinite(training.step()))
        expect(finite, name, "the loss of a training step is not finite")

    size = f"B={batch} N={count}, augmentation, losses, optimiser"
    return Contest(size, {"ours": training.step}, check, batch, recorded=graph)
