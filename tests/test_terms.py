"""Loss terms: what they ask for, what they compute, what stays of them."""

from types import SimpleNamespace

import pytest
import torch
from helpers import settle
from torch import nn

from models.objective import Objective, build_heads, pack_heads, wanted_fields
from models.outputs import EncoderOutput, StudentOutput
from models.students import Classifier, Student
from models.terms import TERMS, method_label, sources, with_terms
from models.terms.alignment import alignment_loss
from utils.config import load_config
from utils.errors import ConfigError, DataError
from utils.fields import Field
from utils.settings import StudentConfig, TargetSettings

WEIGHTS = {"task": 0.1, "alignment": 1.0, "transform": 0.001}
FIELDS = {
    "points": Field((8, 3)),
    "label": Field(()),
    "parts": Field((8,)),
    "visibility": Field((8, 5)),
    "view_codes": Field((5, 512), signed=False),
    "codes": Field((512,), signed=False),
}


class EveryOther(nn.Module):
    """An encoder whose embeddings belong to every other point, in reverse order."""

    feature_channels = global_channels = 6
    extra_losses = ("transform",)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 6)

    def forward(self, points):
        index = torch.arange(points.shape[1] - 1, -1, -2).expand(len(points), -1)
        rows = points.gather(1, index.unsqueeze(2).expand(-1, -1, 3))
        features = self.linear(rows)
        extra = {"transform": features.square().mean()}
        return EncoderOutput(features, index, features.amax(dim=1), extra)


def every_other() -> Classifier:
    return Classifier(EveryOther(), nn.Linear(6, 4))


class PerPoint(Student):
    """A part-segmentation student of 5 parts that is told its category."""

    task = "segmentation"

    def __init__(self):
        network = nn.Linear(4, 4)
        network.feature_channels = network.global_channels = 4
        super().__init__(network)
        self.linear, self.last = network, nn.Linear(4, 5)

    def infer(self, points, category):
        told = category.float().view(-1, 1, 1).expand(*points.shape[:2], 1)
        features = self.linear(torch.cat([points, told], dim=2))
        every = torch.arange(points.shape[1]).expand(len(points), -1)
        return StudentOutput(self.last(features), features.amax(dim=1), features, every)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {
        "points": torch.randn(3, 8, 3),
        "label": torch.tensor([0, 1, 3]),
        "visibility": torch.rand(3, 8, 5) < 0.4,
        "view_codes": torch.rand(3, 5, 512),
        "codes": torch.rand(3, 512),
        "parts": torch.tensor([[0, 1, 2, 3, 4, -1, -1, 0]]).expand(3, 8),
    }


def build(network, weights, fields=FIELDS, **options) -> Objective:
    return Objective(network, settle("student", weights, **options), fields)


def wanted(network, weights, **options) -> set[str]:
    return wanted_fields(settle("student", weights, **options), network)


def test_fields_follow_the_weights():
    student = every_other()
    assert wanted(student, WEIGHTS) == {"points", "label", "view_codes", "visibility"}
    assert wanted(student, WEIGHTS | {"alignment": 0}) == {"points", "label"}
    assert wanted(student, {"alignment": 1.0}) == {"points", "view_codes", "visibility"}
    pooled = {"alignment": {"pooling": "global"}}
    assert wanted(student, WEIGHTS, **pooled) == {"points", "label", "codes"}
    parts = wanted(PerPoint(), {"task": 1.0, "alignment": 1.0})
    assert parts == {"points", "parts", "view_codes", "visibility"}


def test_alignment_reads_the_visibility_of_the_points_that_carry_embeddings(batch):
    objective = build(every_other(), WEIGHTS)
    out = objective(batch)
    assert list(out.losses) == ["transform", "task", "alignment"]  # the order of their sum
    student = objective.network(batch["points"])
    pooled = torch.zeros(3, 5, 6)
    seen = torch.zeros(3, 5, dtype=torch.bool)
    for b in range(3):
        for v in range(5):
            rows = [m for m, n in enumerate(range(7, -1, -2)) if batch["visibility"][b, n, v]]
            if rows:
                pooled[b, v] = student.point_features[b, rows].amax(dim=0)
                seen[b, v] = True
    head = objective.terms["alignment"].head
    expected = alignment_loss(head(pooled), batch["view_codes"], seen)
    torch.testing.assert_close(out.losses["alignment"], expected)
    total = objective.total(out.losses)
    torch.testing.assert_close(total, sum(WEIGHTS[name] * out.losses[name] for name in WEIGHTS))
    total.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_the_network_computes_once_for_all_terms(batch):
    objective, calls = build(every_other(), WEIGHTS), []
    objective.network.register_forward_hook(lambda *_: calls.append(1))
    objective(batch)
    assert len(calls) == 1


def test_weight_zero_is_not_computed_has_no_head_and_reads_nothing(batch):
    objective = build(every_other(), WEIGHTS | {"alignment": 0.0}, {"label": Field(())})
    assert objective.network.state_dict().keys() == every_other().state_dict().keys()
    assert len(list(objective.parameters())) == len(list(objective.network.parameters()))
    whole = build(objective.network, WEIGHTS)(batch).losses
    del batch["visibility"], batch["view_codes"]
    losses = objective(batch).losses
    assert losses.keys() == {"task", "transform"}
    assert all(torch.equal(losses[name], whole[name]) for name in losses)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"task": 0.0}, "nothing to learn from: .*task, alignment.*terms.task.weight=1"),
        ({}, "nothing to learn from"),
        ({"transform": 1.0}, "nothing to learn from"),
    ],
)
def test_terms_that_teach_nothing_are_refused(weights, message):
    with pytest.raises(ConfigError, match=message):
        wanted(every_other(), weights)


def test_wrong_names_are_refused():
    recipe = ["scripts/configs/recipes/pointnet.yaml", "data.name=A"]
    for word, said in {
        "terms.alignmnet.weight=1": "did you mean 'alignment'",
        "terms.reconstruction.weight=1": "unknown key 'terms.reconstruction'",
        "terms.alignment.smoothing=0": "unknown key 'terms.alignment.smoothing'",
    }.items():
        with pytest.raises(ConfigError, match=said):
            load_config(with_terms(StudentConfig), [*recipe, word])
    assert {"transform", "task", "alignment"} < set(TERMS)
    plain = every_other()
    plain.extra_losses = ()
    with pytest.raises(ConfigError, match="terms.transform found a student without"):
        build(plain, WEIGHTS)


@pytest.mark.parametrize(
    ("task", "term", "tasks"),
    [
        ("autoencoder", "task", "classification"),
        ("segmentation", "task", "classification"),
        ("segmentation", "views", "classification"),
        ("classification", "pixels", "segmentation"),
        ("classification", "reconstruction", "autoencoder"),
    ],
)
def test_terms_for_another_teacher_are_refused(task, term, tasks):
    teacher = SimpleNamespace(fields=("views",), task=task)
    message = f"terms.{term} trains a teacher for {tasks}, found teacher.task={task}: set terms"
    with pytest.raises(ConfigError, match=message):
        wanted_fields({term: TERMS[term].Settings(weight=1.0)}, teacher)
    with pytest.raises(ConfigError, match="nothing to learn from.*terms.reconstruction.weight=1"):
        wanted_fields({}, SimpleNamespace(fields=("views",), task="autoencoder"))


def test_without_a_task_no_label_is_read(batch):
    objective = build(every_other(), {"alignment": 1.0})
    del batch["label"], batch["codes"], batch["parts"]
    out = objective(batch)
    assert set(out.losses) == {"alignment"}
    assert out.logits is None and out.target is None


def test_accuracy_is_that_of_the_task(batch):
    out = build(every_other(), WEIGHTS)(batch)
    assert out.logits.shape == (3, 4) and not out.logits.requires_grad
    assert torch.equal(out.target, batch["label"])


def test_global_pooling_learns_the_code_of_the_shape(batch):
    objective = build(every_other(), WEIGHTS, alignment={"pooling": "global"})
    found = objective(batch).losses["alignment"]
    student = objective.network(batch["points"])
    codes = objective.terms["alignment"].head(student.point_features.amax(dim=1, keepdim=True))
    torch.testing.assert_close(found, (codes[:, 0] - batch["codes"]).abs().mean())


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_the_distance_reaches_the_loss(batch, distance):
    objective = build(every_other(), {"alignment": 1.0}, alignment={"distance": distance}).eval()
    out = objective.network(batch["points"])
    codes, seen = objective.terms["alignment"].view_codes(out, batch["visibility"])
    expected = alignment_loss(codes, batch["view_codes"], seen, distance)
    assert torch.equal(objective(batch).losses["alignment"], expected)


@pytest.mark.parametrize(
    ("activation", "signed", "rectified"),
    [("auto", False, True), ("auto", True, False), ("relu", True, True), ("none", False, False)],
)
def test_the_projection_has_the_width_and_the_signs_of_the_codes(
    batch, activation, signed, rectified
):
    fields = FIELDS | {"view_codes": Field((5, 20), signed)}
    objective = build(
        every_other(), {"alignment": 1.0}, fields, alignment={"activation": activation}
    )
    out = objective.network(batch["points"])
    codes, _ = objective.terms["alignment"].view_codes(out, batch["visibility"])
    assert codes.shape == (3, 5, 20)
    assert bool((codes >= 0).all()) == rectified


def test_segmentation_is_told_the_category_and_ignores_unlabelled_points(batch):
    objective = build(PerPoint(), {"task": 1.0, "alignment": 1.0})
    out = objective(batch)
    assert out.logits.shape == (3, 8, 5) and torch.equal(out.target, batch["parts"])
    rows, truth = out.logits[:, [0, 1, 2, 3, 4, 7]], batch["parts"][:, [0, 1, 2, 3, 4, 7]]
    share = torch.log_softmax(rows, dim=2)
    wanted = torch.full_like(share, 0.2 / 4).scatter(2, truth.unsqueeze(2), 0.8)
    torch.testing.assert_close(out.losses["task"], -(wanted * share).sum(dim=2).mean())
    batch["parts"] = torch.full((3, 8), -1)
    assert objective(batch).losses["task"] == 0


def test_view_codes_need_a_head_that_was_loaded(batch):
    student = every_other()
    with pytest.raises(ConfigError, match="was not trained with terms.alignment"):
        student(batch["points"], visibility=batch["visibility"])
    objective = build(student, WEIGHTS)
    objective(batch)  # moves the statistics of the head
    packed = pack_heads(objective.terms)
    assert set(packed) == {"alignment"}
    assert not any(name.startswith("heads.") for name in student.state_dict())
    loaded = every_other()
    loaded.load_state_dict(student.state_dict())
    torch.manual_seed(1)
    build_heads(packed, loaded, "a.pth")
    loaded.eval(), objective.eval()
    out = loaded(batch["points"], visibility=batch["visibility"])
    expected = objective.terms["alignment"].view_codes(
        student(batch["points"]), batch["visibility"]
    )
    assert torch.equal(out.view_codes, expected[0]) and torch.equal(out.seen, expected[1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda head: head["state"].popitem(), "fit the head of terms.alignment: 1 missing"),
        (lambda head: head["fields"].pop("view_codes"), "fits no head: 'view_codes'"),
        (lambda head: head["settings"].update(depth=3), "(?s)fits no head: .*depth"),
        (lambda head: head.pop("settings"), "fits no head: 'settings'"),
        (lambda head: head["fields"]["view_codes"].update(shape=[5, 511]), "of another shape"),
        (lambda head: head["fields"]["view_codes"].update(shape=[]), "fits no head"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(damage, message):
    packed = pack_heads(build(every_other(), WEIGHTS).terms)
    packed["alignment"]["state"].pop("head.norm.num_batches_tracked")  # old files have none
    damage(packed["alignment"])
    with pytest.raises(DataError, match=message) as caught:
        build_heads(packed, every_other(), "a.pth")
    assert "a.pth" in str(caught.value)


def test_heads_of_terms_that_are_unknown_here_are_left_out():
    packed = pack_heads(build(every_other(), WEIGHTS).terms)
    student = every_other()
    build_heads({"unknown": packed["alignment"]}, student, "a.pth")
    assert len(student.heads) == 0


def label(weights, method="pointmcd", **options) -> str:
    return ", ".join(method_label(method, settle("student", weights, **options)))


def test_labels_follow_what_is_learnt_from():
    assert label(WEIGHTS) == "pointmcd"
    assert label(WEIGHTS, "mine") == "mine"
    for method in ("pointmcd", "mine", "baseline"):
        assert label(WEIGHTS | {"alignment": 0}, method) == "baseline"
    assert label({"alignment": 1.0}, "mine") == "mine"
    changed = {"distance": "l2", "pooling": "global", "activation": "none"}
    assert label(WEIGHTS, alignment=changed) == "pointmcd, global pooling, l2, activation none"
    assert label(WEIGHTS, task={"smoothing": 0.1}) == "pointmcd"  # as in the baseline beside it
    with pytest.raises(ConfigError, match="found method=baseline with a weight for alignment, exp"):
        label(WEIGHTS, "baseline")
    assert sources(settle("student", WEIGHTS)) == {"labels", "teacher"}
    assert sources(settle("student", {"transform": 1.0})) == set()


def test_every_option_of_a_taught_term_that_changes_a_run_is_named():
    """A new one must not put its runs into the line of the whole method."""
    other = {"pooling": "global", "distance": "cosine", "activation": "relu"}
    options = set(TERMS["alignment"].Settings.model_fields) - {"weight"}
    assert options == set(other)
    for name, value in other.items():
        assert label(WEIGHTS, alignment={name: value}) != "pointmcd", name


def test_every_control_is_named():
    other = {"views": 4, "visibility": "hpr", "shuffle": "class", "normalise": "standard"}
    assert set(TargetSettings.model_fields) == {"bank", *other}
    read = {"visibility", "view_codes"}
    assert TargetSettings(bank="a.h5").changes(read) == []
    changes = TargetSettings(**other).changes(read)
    shuffled = ["codes shuffled within classes"]
    assert changes == ["visibility hpr", "4 views", *shuffled, "normalised codes"]
    assert TargetSettings(**other).changes({"codes"}) == changes[2:]  # what is read alone
    assert TargetSettings(**other).changes({"logits"}) == shuffled
    assert TargetSettings(shuffle="all").changes(read) == ["shuffled codes"]
