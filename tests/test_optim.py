"""Optimisers, which parameters they decay, and the rates of the epochs."""

import copy
import math

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.optim import lr_scheduler

from models.students import build_student
from models.terms import teacher_schema, with_terms
from utils.config import load_config
from utils.optim import (
    WARMUP_START,
    build_optimizer,
    build_schedule,
    decayed_parameters,
    load_optimizer,
)
from utils.settings import OptimSettings, StudentConfig

CONFIGS = ROOT / "scripts" / "configs"


def one_weight() -> nn.Module:
    return nn.ParameterList([nn.Parameter(torch.ones(3))])


def rates(optim: OptimSettings, epochs: int, done: int = 0) -> list[float]:
    """What the parameters of each epoch from ``done`` on are updated with."""
    optimizer = build_optimizer(optim, one_weight())
    schedule = build_schedule(optim, optimizer, epochs, done)
    found = []
    for _ in range(done, epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def shipped() -> list[tuple[OptimSettings, int]]:
    """Of every recipe, alone and with each of the sets that are for its kind, once each."""
    found = {}
    for recipe in (CONFIGS / "recipes").glob("*.yaml"):
        teacher = recipe.stem.startswith(("teacher", "pointcmt_"))
        bank = ["targets.bank=a.h5"] if recipe.stem == "pointcmt_generator" else []
        for laid_over in [None, *(CONFIGS / "sets").glob("*.yaml")]:
            files = [recipe] if laid_over is None else [recipe, laid_over]
            kind = ("_teacher", "_autoencoder", "_pixels")
            fits = laid_over is None or laid_over.stem.endswith(kind) == teacher
            if fits and not (bank and laid_over):
                schema = teacher_schema if teacher else with_terms(StudentConfig)
                config = load_config(schema, [*map(str, files), "data.name=Set", *bank])
                settings = config.optim, config.train.epochs
                found[repr(settings)] = settings
    return list(found.values())


def test_the_shipped_recipes_keep_their_rates():
    for optim, epochs in shipped():
        assert optim.warmup_epochs == 0
        for epoch, rate in enumerate(rates(optim, epochs)):
            if optim.schedule == "cosine":
                share = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
                expected = optim.min_lr + (optim.lr - optim.min_lr) * share
            else:
                stepped = optim.lr * optim.step_factor ** (epoch // optim.step_epochs)
                expected = max(stepped, optim.min_lr)
            assert rate == expected  # to the last bit


STEPS = {"schedule": "step", "step_epochs": 3, "step_factor": 0.5}


@pytest.mark.filterwarnings("ignore:.*lr_scheduler", "ignore:The epoch parameter")
@pytest.mark.parametrize("changes", [{}, {**STEPS, "min_lr": 0}])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_rates_are_those_of_pytorchs_own_schedulers_in_sequence(changes, warmup):
    epochs, optim = 12, OptimSettings(**{"lr": 0.1, "warmup_epochs": warmup, **changes})
    optimizer = torch.optim.SGD(one_weight().parameters(), lr=optim.lr)
    if optim.schedule == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, epochs - warmup, optim.min_lr)
    else:
        main = lr_scheduler.StepLR(optimizer, optim.step_epochs, optim.step_factor)
    if warmup:
        linear = lr_scheduler.LinearLR(optimizer, WARMUP_START, total_iters=warmup)
        main = lr_scheduler.SequentialLR(optimizer, [linear, main], [warmup])
    expected = []
    for _ in range(epochs):
        expected.append(optimizer.param_groups[0]["lr"])
        main.step()
    found = rates(optim, epochs)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[warmup] == max(found) == 0.1
    for done in (1, 5, 11):
        assert rates(optim, epochs, done) == found[done:]


def test_steps_do_not_fall_below_the_floor():
    optim = OptimSettings(lr=0.1, min_lr=0.03, warmup_epochs=1, **STEPS)
    expected = [0.001, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.03]
    assert rates(optim, 9) == pytest.approx(expected, rel=1e-12)


def test_a_rate_on_the_device_is_filled_in_place():
    method = one_weight()
    optim = OptimSettings(lr=0.5, min_lr=0.25, momentum=0, weight_decay=0, schedule="step")
    optim = optim.model_copy(update={"step_epochs": 1, "step_factor": 0.5})
    optimizer = build_optimizer(optim, method, in_graph=True)
    rate = optimizer.param_groups[0]["lr"]
    schedule = build_schedule(optim, optimizer, 4)
    for expected in (0.5, 0.75, 1.0):
        method[0].grad = torch.ones(3)
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] is rate
        torch.testing.assert_close(method[0].detach(), torch.full((3,), 1 - expected))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_optimiser_goes_on_from_a_state_of_another_device_and_of_earlier_code(name):
    """A rate on the device, for the steps of a graph; nothing that belongs to a schedule."""
    optim = OptimSettings(name=name, lr=0.1)
    method = one_weight()
    optimizer = build_optimizer(optim, method)
    method[0].grad = torch.ones(3)
    optimizer.step()
    elsewhere = copy.deepcopy(optimizer.state_dict())
    for group in elsewhere["param_groups"]:
        group |= {"lr": torch.tensor(0.5), "fused": True, "capturable": True}
    twin_method = copy.deepcopy(method)
    twin = build_optimizer(optim, twin_method)
    load_optimizer(twin, elsewhere)
    for each, its in ((optimizer, method), (twin, twin_method)):
        build_schedule(optim, each, epochs=10, done=5)
        its[0].grad = torch.full((3,), 2.0)
        each.step()
    assert torch.equal(method[0], twin_method[0])
    assert all(group["lr"] == rates(optim, 10, 5)[0] for group in twin.param_groups)


class Everything(nn.Module):
    """What AdamW treats differently, each kind once."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, 4, 8))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.scale = nn.Parameter(torch.ones(()))
        self.affine = nn.Parameter(torch.ones(2, 8))
        self.words = nn.Embedding(5, 8)
        self.pos_embed = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm((4, 8)), nn.Linear(8, 8))
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)


DECAYED = {
    "affine",
    "pos_embed.0.weight",
    "pos_embed.2.weight",
    "stem.0.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
}


def test_adamw_decays_neither_norms_nor_biases_nor_tokens():
    method = Everything()
    optimizer = build_optimizer(OptimSettings(name="adamw", weight_decay=0.05), method)
    names = {parameter: name for name, parameter in method.named_parameters()}
    with_decay, without = (
        [names[parameter] for parameter in group["params"]] for group in optimizer.param_groups
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert set(with_decay) == DECAYED
    trained = [name for name in names.values() if not name.startswith("frozen.")]
    assert sorted([*with_decay, *without]) == sorted(trained)  # none twice, none missing


@pytest.mark.parametrize("encoder", ["pointnet", "curvenet"])
def test_adamw_decays_the_weights_of_the_layers_of_a_student(encoder):
    student = build_student(encoder, 4)
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d)
    expected = {module.weight for module in student.modules() if isinstance(module, layers)}
    assert decayed_parameters(student) == expected


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_sgd_and_adam_decay_all_in_one_group_in_order(name, kind):
    method = Everything()
    optimizer = build_optimizer(OptimSettings(name=name), method)
    assert isinstance(optimizer, kind)
    (group,) = optimizer.param_groups
    trained = [each for each in method.parameters() if each.requires_grad]
    assert len(group["params"]) == len(trained) == len(list(method.parameters())) - 2
    assert all(one is other for one, other in zip(group["params"], trained, strict=True))
    assert group["weight_decay"] == 1e-4


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_optimiser_without_the_compiler_computes_what_pytorchs_does(monkeypatch, name):
    """Three steps, a state that is taken up, three more."""
    found = []
    for lean in (True, False):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        if not lean:
            monkeypatch.setattr("utils.optim._lean", lambda kind: kind)
        optimizer = build_optimizer(OptimSettings(name=name, lr=0.1), module)
        for number in range(6):
            if number == 3:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            module(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()
            assert not any(p.grad is None or p.grad.requires_grad for p in module.parameters())
            optimizer.zero_grad(set_to_none=True)
            assert all(p.grad is None for p in module.parameters())
        found.append([p.detach().clone() for p in module.parameters()])
    assert all(map(torch.equal, *found))
