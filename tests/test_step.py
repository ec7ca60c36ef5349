"""A training step: nothing in it waits for the host, and its other forms compute the same."""

import contextlib
import functools
import sys
import warnings
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from conftest import ROOT, slow_if
from helpers import make_objective
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from data.augment import augment_points, augment_views
from data.datasets import unpack_bits
from models.generators import build_generator
from models.images.teachers import BACKBONES, build_teacher
from models.students import ENCODERS, SEGMENTERS, build_student
from models.terms import TERMS
from utils.device import computes_bf16
from utils.errors import ConfigError, RunError
from utils.fields import Field
from utils.meters import Sums
from utils.optim import build_optimizer, build_schedule
from utils.run import choose_amp
from utils.settings import (
    OptimSettings,
    PointAugmentation,
    StudentConfig,
    TeacherConfig,
    TrainSettings,
    ViewAugmentation,
)
from utils.step import WAITS, WARM_UP, GraphStep, build_step, check_step, no_graph

CPU = torch.device("cpu")
SHAPES, CLASSES, PARTS, VIEWS = 2, 3, 5, 3
POINT_CHANGES = PointAugmentation(scale=(0.8, 1.2), anisotropic=True, shift=0.1, dropout=0.5)
VIEW_CHANGES = ViewAugmentation(flip=True, scale=(0.9, 1.1), shift=0.1, brightness=0.2)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# what it is trained with, its network, its task
STUDENTS = [(name, "classification") for name in ENCODERS]
STUDENTS += [(name, "segmentation") for name in SEGMENTERS]
STUDENTS.remove(("pointnet2_msg", "classification"))  # that of parts has the same layers
CASES = [("distilled", *student) for student in STUDENTS]
CASES += [("plain", "pointnet", "classification"), ("pooled", "pointnet", "classification")]
CASES += [("teacher", "squeezenet1_0", "classification")]
CASES += [("teacher", "vgg11_bn_attention", task) for task in ("segmentation", "autoencoder")]
CASES += [("taught", "pointnet", "classification"), ("teacher", "generator", "generation")]
CODES = ("feature", "classifier", "logits", "similarity")  # what students of the kind "taught" add
# casts are looked at once a kind of network: a CPU that has no bf16 takes seconds for each
IN_BF16 = [("plain", "pointnet", "classification"), ("distilled", "curvenet", "classification")]
IN_BF16 += [("teacher", "squeezenet1_0", "classification")]
TEACHER_WEIGHTS = {
    "classification": {"task": 1.0, "views": 1.0},
    "segmentation": {"pixels": 1.0},
    "autoencoder": {"reconstruction": 1.0},
    "generation": {"generation": 1.0},
}


def tiered(case, *values):
    """A case, of the slow tier if its network is large."""
    kind, network, task, *_ = case
    large = (network, task) in (("pointnet2_msg", "segmentation"), ("curvenet", "segmentation"))
    twins = ("curvenet_released", "dgcnn_published", "pointnext_s64", "pointnext_s_height")
    heavy = large or network in ("pointmlp", "vgg11_bn_attention", *twins)
    heavy |= kind != "plain" and values == ("bf16",)
    return slow_if(heavy, case, *values)


def weights_of(kind: str, network: nn.Module, off: str = "") -> dict[str, float]:
    """All terms of a case but the one that is ``off``."""
    if kind == "teacher":
        weights = dict(TEACHER_WEIGHTS[network.task])
    else:
        weights = {"task": 1.0, "alignment": float(kind != "plain")}
        weights |= dict.fromkeys(CODES if kind == "taught" else (), 1.0)
        weights |= dict.fromkeys(network.extra_losses, 0.001)
    return {name: weight for name, weight in weights.items() if name != off and weight}


def build_objective(kind: str, name: str, task: str, off: str = "") -> nn.Module:
    torch.manual_seed(0)
    outputs = {"classification": CLASSES, "segmentation": PARTS}.get(task, 0)
    if task == "generation":
        network = build_generator(code_size=512, points=512)
    elif kind == "teacher":
        network = build_teacher(name, outputs, task=task, num_categories=CLASSES)
    else:
        head = "pointcmt" if kind == "taught" else "default"
        network = build_student(name, outputs, head, task, num_categories=CLASSES)
    options = {"alignment": {"pooling": "global"}} if kind == "pooled" else {}
    fields = {"logits": Field((CLASSES,)), "points": Field((512, 3))}
    generator = build_generator(code_size=512, points=64), None, "weights"
    with patch("models.terms.feature.open_generator", lambda path: generator):
        options |= {"feature": {"generator": "file"}} if kind == "taught" else {}
        return make_objective(network, weights_of(kind, network, off), fields, **options)


def make_data() -> dict[str, torch.Tensor]:
    """Every field that a term may read."""
    return {
        "index": torch.arange(SHAPES),
        "label": torch.arange(SHAPES) % CLASSES,
        "points": torch.nn.functional.normalize(torch.randn(SHAPES, 512, 3), dim=2),
        "parts": torch.randint(-1, PARTS, (SHAPES, 512)),
        "packed": torch.randint(0, 2**VIEWS, (SHAPES, 512, 1), dtype=torch.uint8),
        "view_codes": torch.rand(SHAPES, VIEWS, 512),
        "codes": torch.rand(SHAPES, 512),
        "logits": torch.randn(SHAPES, CLASSES),
        "views": torch.randint(0, 256, (SHAPES, VIEWS, 1, 32, 32), dtype=torch.uint8),
        "part_images": torch.randint(-1, PARTS + 1, (SHAPES, VIEWS, 32, 32)),
    }


def make_case(kind: str, name: str, task: str, device: torch.device = CPU, amp: str = "none"):
    """A function that draws a batch, takes a step with it and adds the output up."""
    built = build_objective(kind, name, task).to(device).train()
    data = {name: value.to(device) for name, value in make_data().items()}
    optim = OptimSettings(lr=0.01, clip_grad=1.0)
    train = TrainSettings(amp=amp)
    optimizer = build_optimizer(optim, built)

    def draw(_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = {name: value for name, value in data.items() if name != "packed"}
        batch["visibility"] = unpack_bits(data["packed"], VIEWS)
        batch = augment_points(batch, POINT_CHANGES, 0, 0)
        return augment_views(batch, VIEW_CHANGES, 0, 0)

    step = build_step(built, draw, optimizer, optim, train, device)

    def take() -> Sums:
        step({})
        step.sums.count(SHAPES)
        return step.sums

    return take


# What serves a CPU alone: kernels, which read memory directly, and a check of the categories.
KERNELS = str(ROOT / "models" / "kernels")
MAY_LOOK = {"check_category"}
LOOKS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "lift_fresh")
LOOKS += ("unique", "_unique2", "bincount")


class NothingLooks(TorchDispatchMode):
    """Refuses the operations whose result, or whose size, the host has to know: on CUDA each of
    them waits for all that was asked of the device before it. A tensor made of numbers of the host
    waits too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        waits = name in LOOKS or (
            name in ("index", "index_put", "index_put_")
            and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        )
        if waits and not for_a_cpu():
            raise AssertionError(f"aten.{name} makes the host wait for the device")
        return function(*args, **(kwargs or {}))


def for_a_cpu() -> bool:
    """Whether the call comes from code that does not run on CUDA."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in MAY_LOOK or frame.f_code.co_filename.startswith(KERNELS):
            return True
        frame = frame.f_back
    return False


def forbid_reading(monkeypatch) -> None:
    """Refuse what reads memory of the host and passes by the dispatcher."""
    for name in ("tolist", "numpy", "cpu"):
        known = getattr(torch.Tensor, name)

        def read(*args, name=name, known=known, **kwargs):
            if not for_a_cpu():
                raise AssertionError(f"Tensor.{name} makes the host wait for the device")
            return known(*args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, read)


@pytest.mark.parametrize(
    ("case", "amp"),
    [tiered(case, "none") for case in CASES] + [tiered(case, "bf16") for case in IN_BF16],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_nothing_in_a_step_makes_the_host_wait(monkeypatch, case, amp):
    take = make_case(*case, amp=amp)
    forbid_reading(monkeypatch)
    with NothingLooks():
        take()
        sums = take()
    monkeypatch.undo()
    assert all(np.isfinite(value) for value in sums.means().values())


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.isfinite().all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x * torch.tensor([2.0]),
        lambda x: torch.equal(x, x),
        lambda x: x.tolist(),
        lambda x: x.detach().cpu(),
    ],
)
def test_a_look_is_noticed(monkeypatch, look):
    forbid_reading(monkeypatch)
    x = torch.rand(4)
    with NothingLooks(), pytest.raises(AssertionError, match="makes the host wait"):
        look(x)


WITHOUT = [("teacher", "squeezenet1_0", "classification", off) for off in ("task", "views")]
for off in ("task", "alignment"):
    WITHOUT += [("distilled", "dgcnn", "classification", off)]
    WITHOUT += [("distilled", "curvenet", "segmentation", off)]


@pytest.mark.parametrize("case", [tiered(case) for case in [*CASES, *WITHOUT]], ids="-".join)
def test_an_objective_knows_whether_every_parameter_gets_a_gradient(case):
    """Processes that train together would wait for those that get none."""
    objective, data = build_objective(*case), make_data()
    data["visibility"] = unpack_bits(data.pop("packed"), VIEWS)
    objective.total(objective(data).losses).backward()
    reached = all(parameter.grad is not None for parameter in objective.parameters())
    assert reached == objective.trains_all == (case[3:] != ("task",))


@pytest.mark.parametrize("backbone", [slow_if("vgg" in name, name) for name in BACKBONES])
def test_every_parameter_of_a_backbone_gets_a_gradient(backbone):
    network = build_teacher(backbone, CLASSES)
    network(make_data()["views"]).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_all_terms_are_looked_at():
    networks = {kind: build_student("pointnet", CLASSES) for kind in ("distilled", "taught")}
    found = {name for kind, network in networks.items() for name in weights_of(kind, network)}
    assert found | {name for terms in TEACHER_WEIGHTS.values() for name in terms} == set(TERMS)


def sgd(**settings) -> OptimSettings:
    return OptimSettings(lr=0.1, **settings)


class Output:
    """Of a step; ``logits`` of three samples, of which the last has no target."""

    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])

    def __init__(self, judged: bool = False, **losses: float):
        self.losses = {name: torch.tensor(value) for name, value in losses.items()}
        self.target = torch.tensor([0, 1, -1]) if judged else None


def add(sums: Sums, *outputs: Output) -> None:
    for output in outputs:
        sums.add(output)
        sums.count(2)


def test_sums_name_the_step_that_broke_them():
    sums = Sums()
    sums.begin(4)
    add(sums, *(Output(good=1.0, bad=value) for value in (1.0, 2.0, float("inf"), 3.0)))
    with pytest.raises(RunError, match=r"loss bad is not finite in epoch 5, from step 3; the"):
        sums.means()
    assert sums.peek() == {}  # sent, and not there yet
    with pytest.raises(RunError, match="from step 3"):
        sums.peek()


def test_a_peek_shows_what_was():
    sums = Sums()
    add(sums, Output(judged=True, term=1.0))
    assert sums.peek() == {}
    add(sums, Output(judged=True, term=4.0))
    assert sums.peek() == {"term": 1.0}
    assert sums.peek() == {"term": 2.5}
    assert sums.means() == {"loss/term": 2.5, "train/accuracy": 50.0}
    assert (sums.shapes, sums.steps) == (4, 2)


def test_an_epoch_begins_with_empty_sums_in_the_same_memory():
    """A CUDA graph goes on adding where it was recorded."""
    sums = Sums()
    add(sums, Output(judged=True, term=float("nan")))
    places = [values.data_ptr() for values in (sums.losses, sums.finite_steps, sums.judged)]
    sums.peek()
    sums.begin(1)
    assert (sums.shapes, sums.steps, sums.epoch) == (0, 0, 1)
    add(sums, Output(judged=True, term=3.0), Output(judged=True, term=5.0))
    assert sums.peek() == {}  # nothing of the epoch before
    assert sums.means() == {"loss/term": 4.0, "train/accuracy": 50.0}
    found = [values.data_ptr() for values in (sums.losses, sums.finite_steps, sums.judged)]
    assert found == places


def test_a_graph_is_refused_where_there_is_none(monkeypatch):
    with pytest.raises(ConfigError, match=r"train.cuda_graph=true needs a GPU, found cpu"):
        check_step(TrainSettings(cuda_graph=True), CPU)
    monkeypatch.setattr("utils.step.world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"train.compile=true works in one process, found 2"):
        check_step(TrainSettings(compile=True), CPU)
    check_step(TrainSettings(), CPU)


class OnTheHost(TERMS["task"]):
    in_graph = False


def test_a_graph_is_tried_on_one_gpu_where_every_term_can_be_recorded(monkeypatch, own_terms):
    gpu, auto = torch.device("cuda", 0), TrainSettings()
    weights = {"task": 1.0, "alignment": 1.0}
    objective = make_objective(build_student("pointnet", CLASSES), weights)
    assert no_graph(objective, auto, gpu) is None
    assert no_graph(objective, TrainSettings(cuda_graph=True), gpu) is None
    assert no_graph(objective, auto, CPU) == "CUDA graphs need a GPU, found cpu"
    assert no_graph(objective, TrainSettings(cuda_graph=False), gpu) == "train.cuda_graph=false"
    TERMS["task"] = OnTheHost
    objective = make_objective(build_student("pointnet", CLASSES), weights)
    assert no_graph(objective, auto, gpu) == "terms.task computes on the host"
    with pytest.raises(ConfigError, match="cuda_graph=true, and terms.task computes on the host"):
        no_graph(objective, TrainSettings(cuda_graph=True), gpu)
    monkeypatch.setattr("utils.step.world_size", lambda: 2)
    assert no_graph(objective, auto, gpu).startswith("the 2 processes talk")


@needs_cuda
@pytest.mark.parametrize("amp", ["none", "bf16"])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_no_step_waits_on_cuda(case, amp):
    take = make_case(*case, device=torch.device("cuda", 0), amp=amp)
    take()  # libraries set themselves up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums = take()
        sums.peek()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(np.isfinite(value) for value in sums.means().values())


def train_some(
    device: torch.device, optim: OptimSettings, train: TrainSettings, steps: int = 8
) -> list[float]:
    """Losses of some steps on batches that differ; the rate falls once, as if after an epoch."""
    torch.manual_seed(0)
    weights = {"task": 1.0, "alignment": 1.0, "transform": 0.001}
    objective = make_objective(build_student("pointnet", CLASSES), weights).to(device).train()
    graph = no_graph(objective, train, device) is None
    optimizer = build_optimizer(optim, objective, in_graph=graph)
    falling = {"lr": 0.001, "min_lr": 0, "schedule": "step", "step_epochs": 6, "step_factor": 0.1}
    schedule = build_schedule(optim.model_copy(update=falling), optimizer, steps)
    step = build_step(objective, dict, optimizer, optim, train, device, graph)
    losses = []
    for number in range(steps):
        generator = torch.Generator().manual_seed(number)
        # Many clouds of very different extents: statistics of few alike ones magnify rounding.
        extents = torch.rand(16, 1, 3, generator=generator).square()
        batch = {
            "index": torch.arange(16),
            "points": torch.randn(16, 64, 3, generator=generator) * extents,
            "label": torch.randint(0, CLASSES, (16,), generator=generator),
            "visibility": torch.rand(16, 64, VIEWS, generator=generator) < 0.4,
            "view_codes": torch.rand(16, VIEWS, 512, generator=generator),
        }
        output = step({name: value.to(device) for name, value in batch.items()})
        losses.append(output.losses["alignment"].detach().clone())
        schedule.step()
    assert not graph or step.graph is not None
    return torch.stack(losses).tolist()


class StandIn:
    """Of CUDA's streams and graphs, for a step that notes the number it is given: ``taken``. What
    is recorded is taken by a replay alone, on what then lies in the buffers."""

    def __init__(self, monkeypatch, required: bool = False):
        self.taken, self.recorded, self.stream = [], [], "main"
        self.waits: set[int] = set()  # steps in which the host waits
        self.breaks: Exception | None = None  # of what is recorded
        self.generator = Mock()
        for name, fake in {
            "Stream": Mock,
            "CUDAGraph": Mock,
            "current_stream": lambda: Mock(name=self.stream),
            "set_stream": lambda stream: setattr(self, "stream", "main"),
            "stream": self.on_stream,
            "graph": self.record,
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": Mock(),
            "current_device": lambda: 0,
            "default_generators": [self.generator],
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        self.end_allocation = Mock(side_effect=RuntimeError("no such pool"))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocation, False)
        self.inner = Mock(side_effect=self.take)
        self.step = GraphStep(self.inner, required)

    @contextlib.contextmanager
    def on_stream(self, stream):
        self.stream, before = stream, self.stream
        try:
            yield
        finally:
            self.stream = before

    @contextlib.contextmanager
    def record(self, graph, stream, capture_error_mode):
        self.recorded.append(stream)
        self.stream, before = "recording", self.stream
        yield  # where that fails, so does its end, which then does not leave the stream
        self.stream = before
        graph.replay.side_effect = lambda: self.take(self.inner.call_args.args[0])

    def take(self, inputs):
        if self.stream == "recording":
            if self.breaks:
                raise self.breaks
            return inputs["x"]
        number = int(inputs["x"])
        if number in self.waits:
            warnings.warn(f"called a {WAITS} (somewhere)", stacklevel=1)
        self.taken.append(number)
        return inputs["x"]


def test_a_graph_takes_every_step_once_on_its_own_copy_of_the_inputs(monkeypatch):
    """Who calls what, without a GPU: warm-ups are steps, recording is none."""
    cuda = StandIn(monkeypatch)
    outputs = [cuda.step({"x": torch.tensor(float(number))}) for number in range(6)]
    assert cuda.taken == [0, 1, 2, 3, 4, 5]
    assert cuda.recorded == [cuda.step.stream]  # that of the warm-ups
    assert cuda.inner.call_count == WARM_UP + 1
    cuda.inner.optimizer.zero_grad.assert_called_once_with(set_to_none=True)
    assert outputs[-1] is cuda.step.inputs["x"]
    assert cuda.step.refusal is None


def test_a_step_that_waits_is_not_recorded(monkeypatch, capsys):
    cuda = StandIn(monkeypatch)
    cuda.waits = {WARM_UP - 1}
    for number in range(6):
        cuda.step({"x": torch.tensor(float(number))})
    assert cuda.taken == [0, 1, 2, 3, 4, 5]
    assert not cuda.recorded and cuda.stream == "main"
    assert "makes the host wait for the device" in cuda.step.refusal
    said = capsys.readouterr().out
    assert said.startswith("steps are not recorded as a CUDA graph: ") and said.count("\n") == 1
    torch.cuda.set_sync_debug_mode.assert_called_with(0)  # as it was
    cuda = StandIn(monkeypatch, required=True)
    cuda.waits = {WARM_UP - 1}
    with pytest.raises(RunError, match=r"train.cuda_graph=true, and .*test_step.py:\d+ makes"):
        for number in range(6):
            cuda.step({"x": torch.tensor(float(number))})


def test_steps_go_on_where_recording_fails(monkeypatch, capsys):
    """And dropout with them, whose generator still waited for the end of the recording."""
    cuda = StandIn(monkeypatch)
    cuda.breaks = RuntimeError("operation not permitted\nwhen capturing")
    for number in range(6):
        cuda.step({"x": torch.tensor(float(number))})
    assert cuda.taken == [0, 1, 2, 3, 4, 5]
    assert len(cuda.recorded) == 1 and cuda.stream == "main"
    assert "recording failed (operation not permitted)" in capsys.readouterr().out
    cuda.end_allocation.assert_called_once()
    fresh = cuda.generator.clone_state.return_value
    cuda.generator.graphsafe_set_state.assert_called_once_with(fresh)
    cuda = StandIn(monkeypatch, required=True)
    cuda.breaks = RuntimeError("operation not permitted")
    with pytest.raises(RunError, match="train.cuda_graph=true, and recording failed"):
        for number in range(6):
            cuda.step({"x": torch.tensor(float(number))})


@needs_cuda
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_graph_computes_what_eager_steps_do(name, clip, compiled):
    device = torch.device("cuda", 0)
    optim = OptimSettings(name=name, lr=0.01, clip_grad=clip)
    eager = train_some(device, optim, TrainSettings(cuda_graph=False))
    train = TrainSettings(cuda_graph=True, compile=compiled)
    assert train_some(device, optim, train) == pytest.approx(eager, rel=1e-3)


@pytest.mark.slow
def test_a_compiled_objective_computes_what_it_does_as_it_is(monkeypatch):
    """As far as PyTorch's own kernels: to have a C++ compiler make others takes minutes."""
    compile_objective = Mock(side_effect=functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr("utils.step.torch.compile", compile_objective)
    eager = train_some(CPU, sgd(), TrainSettings(), steps=3)
    compiled = train_some(CPU, sgd(), TrainSettings(compile=True), steps=3)
    assert compiled == pytest.approx(eager, rel=1e-4)
    compile_objective.assert_called_once()


def test_the_compiler_hears_of_repeatable_operations(monkeypatch):
    """It has a switch of its own, without which it times kernels to choose among them."""
    from torch._inductor import config

    before = config.deterministic, torch.get_deterministic_debug_mode()
    monkeypatch.setattr("utils.step.torch.compile", lambda objective, **options: objective)
    try:
        config.deterministic = False
        torch.set_deterministic_debug_mode("default")
        train_some(CPU, sgd(), TrainSettings(compile=True), steps=1)
        assert not config.deterministic
        torch.set_deterministic_debug_mode("warn")
        train_some(CPU, sgd(), TrainSettings(compile=True), steps=1)
        assert config.deterministic and torch.get_deterministic_debug_mode() == 1
    finally:
        config.deterministic = before[0]
        torch.set_deterministic_debug_mode(before[1])


def test_without_bf16_it_is_not_asked_for(monkeypatch):
    """A GPU that has none refuses it."""
    monkeypatch.setattr("utils.step.torch.autocast", Mock(side_effect=RuntimeError("bf16")))
    objective = build_objective("plain", "pointnet", "classification")
    optim = OptimSettings()
    optimizer = build_optimizer(optim, objective)
    build_step(objective, dict, optimizer, optim, TrainSettings(), CPU)
    with pytest.raises(RuntimeError, match="bf16"):
        build_step(objective, dict, optimizer, optim, TrainSettings(amp="bf16"), CPU)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512_bf16 avx2", True), ("amx_bf16", True), ("avx512f avx_bf16x", False)],
)
def test_a_cpu_says_whether_it_has_bf16(monkeypatch, flags, expected):
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags : {flags}\n")
    assert computes_bf16(CPU) == expected


@pytest.mark.parametrize(("computes", "expected"), [(True, "bf16"), (False, "none")])
@pytest.mark.parametrize("kind", [StudentConfig, TeacherConfig])
def test_precision_is_that_of_the_machine_if_asked(monkeypatch, tmp_path, computes, expected, kind):
    monkeypatch.setattr("utils.run.computes_bf16", lambda device: computes)
    config = kind(data={"name": "Set"}, train={"amp": "auto", "epochs": 7})
    settled = choose_amp(config, CPU, tmp_path / "run")
    assert settled.train.amp == expected
    assert settled.train.epochs == 7 and settled.data == config.data
    for asked in ("none", "bf16"):  # what was asked for stays
        config = kind(data={"name": "Set"}, train={"amp": asked})
        assert choose_amp(config, CPU, tmp_path / "run") is config


def test_the_main_process_chooses_the_precision_of_all(monkeypatch, tmp_path):
    monkeypatch.setattr("utils.run.computes_bf16", lambda device: True)
    monkeypatch.setattr("utils.run.gather_objects", lambda mine: ["none", mine])
    config = StudentConfig(data={"name": "Set"}, train={"amp": "auto"})
    assert choose_amp(config, CPU, tmp_path / "run").train.amp == "none"


def test_no_precision_is_assumed_of_an_unknown_machine(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert not computes_bf16(CPU)
