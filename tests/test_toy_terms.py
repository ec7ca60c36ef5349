"""An idea is one file: the terms of this one train, resume, are saved, loaded and labelled."""

import copy
import dataclasses
import json
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, slow_if
from helpers import settle
from torch import nn

import test as test_program
import train_student
from models import load_model
from models.objective import Objective
from models.students import build_student
from models.terms import TERMS, register
from models.terms.base import Term
from scripts.choose_weight import choose
from utils import checkpoint, results
from utils.checkpoint import read_model
from utils.fields import Field
from utils.optim import build_optimizer
from utils.run import Run
from utils.settings import Factor, OptimSettings, TermSettings, TrainSettings
from utils.step import build_step

pytestmark = pytest.mark.usefixtures("own_terms", "undrawn")
CPU = torch.device("cpu")
ALONE = ["terms.alignment.weight=0", "train.epochs=1"]


class ToySettings(TermSettings):
    temperature: Factor = 0.5


class Toy(Term):
    """The cloud's feature makes the teacher's code of the shape."""

    name = "toy"
    Settings = ToySettings
    learns_from = "teacher"

    def __init__(self, settings, network, fields):
        super().__init__(settings, network, fields)
        width = self.fields["codes"].shape[-1]
        self.head = nn.Sequential(nn.Linear(network.global_channels, width), nn.BatchNorm1d(width))

    @classmethod
    def reads(cls, settings, network):
        return {"codes": None}

    def codes(self, output):
        return self.head(output.global_feature) / self.settings.temperature

    def forward(self, batch, output):
        return F.mse_loss(self.codes(output), batch["codes"])


class Judged(Term):
    """A frozen network says what it thinks of the embeddings."""

    name = "judged"
    learns_from = "shapes"

    def __init__(self, settings, network, fields):
        super().__init__(settings, network, fields)
        self.head = nn.Linear(network.global_channels, 6)

    def begin(self, cameras):
        critic = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
        self.freeze("critic", critic.train())
        self.start, self.cameras = copy.deepcopy(critic.state_dict()), cameras

    def forward(self, batch, output):
        assert not any(module.training for module in self.frozen["critic"].modules())
        assert self.training == torch.is_grad_enabled()
        return self.frozen["critic"](self.head(output.global_feature)).square().mean()


MINE = ["terms.alignment.weight=0", "terms.toy.weight=0.5", "method=mine", "run.name=null"]


@pytest.fixture(scope="module")
def trained_toy(workshop):
    """A student that was trained with it and the trained objective."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TERMS, Toy.name, Toy)
        made = []
        patch.setattr(train_student, "Objective", lambda *a: made.append(Objective(*a)) or made[-1])
        train_student.main(workshop.student_arguments("-", *MINE, "terms.toy.temperature=0.25"))
    return workshop.student("Tiny_pointnet_mine_s0"), made[0].eval()


@pytest.fixture
def toy(trained_toy):
    register(Toy)
    return trained_toy


def same_state(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_it_trains_is_saved_loaded_labelled_and_tested(workshop, toy, tmp_path):
    path, objective = toy
    log = (workshop.folder / "runs" / path.stem / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss/toy"] for line in log]
    assert len(losses) == 2 and losses[1] < losses[0]
    content = read_model(path)
    assert content["training"]["method"] == ["mine", "temperature 0.25"]
    assert list(content["config"]["terms"]) == ["transform", "task", "toy"]  # the last registered
    assert content["config"]["terms"]["toy"] == {"weight": 0.5, "temperature": 0.25}
    assert set(content["heads"]) == {"toy"}
    assert not any("head.0" in name or "heads" in name for name in content["model"])

    loaded, points = load_model(path), torch.rand(3, 100, 3)
    head, trained = loaded.heads["toy"], objective.terms["toy"]
    assert not any(m.training for m in loaded.modules()) and head.settings.temperature == 0.25
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with torch.no_grad():
        expected = trained.codes(objective.network(points))
    assert torch.equal(head.codes(loaded(points)), expected)

    common = ["--results", str(tmp_path / "r.csv"), "--pictures", str(tmp_path), "--device", "cpu"]
    test_program.main([str(path), *common])
    (row,) = results.read(tmp_path / "r.csv")
    assert (row.run, row.method) == ("Tiny_pointnet_mine_s0", "mine, temperature 0.25")
    assert row.recipe == "transform 0.001 task 0.1 toy 0.5; sgd 0.05, batch 16"
    assert choose_between(row) == 0.3

    del TERMS["toy"]  # a checkpoint of somebody else's idea is a student all the same
    assert torch.equal(load_model(path)(points).logits, loaded(points).logits)
    assert len(load_model(path).heads) == 0


def choose_between(taught: results.Result) -> float:
    """The task weight of the baseline, where the taught run does better with its own."""
    rows = [dataclasses.replace(taught, split="val", overall=99.0)]
    baseline = {"method": "baseline", "recipe": "task 0.3; sgd 0.05, batch 16"}
    rows.append(dataclasses.replace(rows[0], run="base", overall=1.0, **baseline))
    return choose(results.frame(rows), taught.data, taught.model, taught.epochs)


def test_an_interrupted_run_ends_with_the_same_weights_and_heads(workshop, toy, monkeypatch):
    save = Run.save_state

    def save_and_stop(run, state):
        save(run, state)
        raise KeyboardInterrupt

    arguments = [*MINE[:3], "terms.toy.temperature=0.25"]
    arguments = workshop.student_arguments("in_parts", *arguments)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "save_state", save_and_stop)
        train_student.main(arguments)
    train_student.main(arguments)
    whole, parts = (read_model(path) for path in (toy[0], workshop.student("in_parts")))
    assert same_state(whole["model"], parts["model"])
    assert same_state(whole["heads"]["toy"]["state"], parts["heads"]["toy"]["state"])


def test_weight_zero_is_the_baseline_to_the_bit(workshop, objectives):
    """Heads are drawn behind the network, and a term that is only registered changes nothing."""
    train_student.main(workshop.student_arguments("before_toy", *ALONE))
    register(Toy)
    train_student.main(workshop.student_arguments("beside_toy", *ALONE, "method=mine"))
    before, beside = (read_model(workshop.student(name)) for name in ("before_toy", "beside_toy"))
    assert same_state(before["model"], beside["model"]) and beside["heads"] == {}
    assert before["config"]["terms"] == beside["config"]["terms"]
    assert beside["training"]["method"] == ["baseline"]
    assert set(objectives[1].terms) == {"transform", "task"}


@pytest.mark.parametrize(
    ("weights", "method", "targets", "name"),
    [
        ({"task": 1, "toy": 1}, "mine", {}, "mine"),
        ({"task": 1, "toy": 1}, "mine", {"shuffle": "all"}, "mine_shuffled"),
        ({"task": 1, "toy": 1}, "mine", {"shuffle": "class"}, "mine_shuffled_class"),
        ({"toy": 1}, "mine", {}, "mine_pretrained"),
        ({"task": 1, "toy": 0}, "mine", {"shuffle": "all"}, "baseline"),
        ({"task": 1, "alignment": 0}, "pointmcd", {}, "baseline"),
        ({"task": 1, "judged": 1}, "mine", {"shuffle": "all"}, "mine"),  # it reads no teacher
    ],
)
def test_run_names_say_what_taught(weights, method, targets, name):
    register(Toy), register(Judged)
    schema = train_student.with_terms(train_student.StudentConfig)
    terms = {term: {"weight": weight} for term, weight in weights.items()}
    config = schema(data={"name": "Set"}, method=method, terms=terms, targets=targets)
    label = train_student.method_label(method, train_student.active_terms(config.terms))
    found = train_student.run_name(config, label[0])
    assert found == f"Set_pointnet_{name}_s0"


@pytest.mark.parametrize(
    ("shuffle", "word"),
    [("all", "shuffled codes"), slow_if(True, "class", "codes shuffled within classes")],
)
def test_controls_are_part_of_the_label(workshop, shuffle, word):
    register(Toy)
    name = {"all": "mine_shuffled", "class": "mine_shuffled_class"}[shuffle]
    arguments = [*MINE, "train.epochs=1", f"targets.shuffle={shuffle}", "targets.views=3"]
    train_student.main(workshop.student_arguments("-", *arguments))
    content = read_model(workshop.student(f"Tiny_pointnet_{name}_s0"))
    assert content["training"]["method"] == ["mine", word]  # of views it reads nothing
    assert content["training"]["bank"]["data_name"] == "Tiny"


# ---- a frozen network


def test_a_frozen_network_is_used_and_never_trained(workshop, objectives):
    register(Judged)
    arguments = [*ALONE, "terms.judged.weight=1", "terms.task.weight=0", "method=judged"]
    train_student.main(workshop.student_arguments("judged", *arguments))
    term = objectives[0].terms["judged"]
    assert same_state(term.frozen["critic"].state_dict(), term.start)
    assert term.cameras["intrinsics"].shape == (12, 3, 3)
    assert not any(parameter.requires_grad for parameter in term.frozen["critic"].parameters())
    assert not any("critic" in name for name in objectives[0].state_dict())
    state = checkpoint.read(workshop.folder / "runs" / "judged" / "state.pth")
    assert not any("critic" in name or ".frozen" in name for name in state["objective"])
    trained = len(list(objectives[0].parameters()))
    assert len(state["optimizer"]["param_groups"][0]["params"]) == trained
    content = read_model(workshop.student("judged"))
    assert set(content["heads"]["judged"]["state"]) == {"head.weight", "head.bias"}
    assert (content["training"]["method"], content["training"]["labelled"]) == (["judged"], False)
    assert load_model(workshop.student("judged")).heads["judged"].frozen == {}


def test_a_frozen_network_hands_gradients_on_and_follows_its_term():
    register(Judged)
    student = build_student("pointnet", 3)
    objective = Objective(student, settle("student", {"judged": 1.0}), {}).train()
    critic = objective.terms["judged"].frozen["critic"]
    before = copy.deepcopy(critic.state_dict())
    optim, train = OptimSettings(lr=0.5), TrainSettings()
    optimizer = build_optimizer(optim, objective)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert owned.isdisjoint(map(id, critic.parameters()))
    step = build_step(objective, dict, optimizer, optim, train, CPU)
    step({"points": torch.rand(4, 64, 3), "label": torch.zeros(4, dtype=torch.int64)})
    assert same_state(critic.state_dict(), before)
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert student.encoder.rest.linears[0].weight.grad.abs().sum() > 0
    assert not critic.training and objective.train().training
    assert critic[0].weight.dtype == torch.float32
    assert objective.double().terms["judged"].frozen["critic"][0].weight.dtype == torch.float64
    assert objective.to("meta").terms["judged"].frozen["critic"][0].weight.device.type == "meta"


class Doubled(Toy):
    """Assigns what it freezes."""

    name = "doubled"

    def begin(self, cameras):
        self.freeze("net", nn.Linear(2, 2))
        self.net = self.frozen["net"]


def test_a_frozen_module_that_is_a_head_too_is_refused():
    register(Doubled)
    terms = {"doubled": Doubled.Settings(weight=1.0)}
    with pytest.raises(RuntimeError, match="terms.doubled: a frozen module is an attribute"):
        Objective(build_student("pointnet", 4), terms, {"codes": Field((7,))})


def test_the_term_of_the_documents_learns():
    """As a reader would copy it."""
    text = (ROOT / "models" / "README.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "(Term)" in b)
    space = {"__name__": "mine"}
    exec(block, space)
    mine = register(space["Mine"])
    student = build_student("dgcnn", 4)
    terms = {"mine": mine.Settings(weight=1.0)}
    objective = Objective(student, terms, {"codes": Field((7,))})
    batch = {"points": torch.randn(3, 32, 3), "codes": torch.randn(3, 7)}
    optimizer = torch.optim.SGD(objective.terms.parameters(), 0.01)
    losses = []
    for _ in range(6):
        loss = objective.total(objective(batch).losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
