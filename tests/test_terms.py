"""Training methods: what they ask for, what they compute, what stays."""

import pytest
import torch
from models.methods import METHODS, Plain, PointMCD, build_method
from torch import nn

from models.outputs import EncoderOutput, StudentOutput
from models.students import Classifier, Student
from models.terms.alignment import alignment_loss
from utils.errors import ConfigError

WEIGHTS = {"task": 0.1, "distill": 1.0, "transform": 0.001}


class EveryOther(nn.Module):
    """An encoder whose embeddings belong to every other point, in reverse order."""

    feature_channels = global_channels = 6

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
        super().__init__(4, 4)
        self.linear, self.last = nn.Linear(4, 4), nn.Linear(4, 5)

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


PAPER = {"smoothing": 0.2, "pooling": "visible", "distance": "l1"}


def build(name, student, weights, **options):
    return build_method(name, student, weights, **{**PAPER, **options})


def test_fields_follow_the_weights():
    student = every_other()
    everything = ("points", "label", "view_codes", "visibility")
    assert build("pointmcd", student, WEIGHTS).fields == everything
    assert build("pointmcd", student, {**WEIGHTS, "distill": 0}).fields == (
        "points",
        "label",
    )
    without_labels = build("pointmcd", student, {"distill": 1.0})
    assert without_labels.fields == ("points", "view_codes", "visibility")
    assert build("plain", student, {"task": 1.0}).fields == ("points", "label")


def test_distillation_reads_the_visibility_of_the_points_that_carry_embeddings(batch):
    method = PointMCD(every_other(), WEIGHTS, smoothing=0.2)
    out = method(batch)
    assert set(out.losses) == {"task", "distill", "transform"}
    student = method.network(batch["points"])
    pooled = torch.zeros(3, 5, 6)
    seen = torch.zeros(3, 5, dtype=torch.bool)
    for b in range(3):
        for v in range(5):
            rows = [m for m, n in enumerate(range(7, -1, -2)) if batch["visibility"][b, n, v]]
            if rows:
                pooled[b, v] = student.point_features[b, rows].amax(dim=0)
                seen[b, v] = True
    expected = alignment_loss(method.network.projection(pooled), batch["view_codes"], seen)
    torch.testing.assert_close(out.losses["distill"], expected)
    total = method.total(out.losses)
    torch.testing.assert_close(total, sum(WEIGHTS[name] * out.losses[name] for name in WEIGHTS))
    total.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_weight_zero_is_not_computed_and_has_no_head(batch):
    method = PointMCD(every_other(), {**WEIGHTS, "distill": 0.0}, smoothing=0.2)
    assert method.network.projection is None
    del batch["visibility"], batch["view_codes"]
    plain = Plain(method.network, {"task": 0.1, "transform": 0.001}, smoothing=0.2)
    losses, expected = method(batch).losses, plain(batch).losses
    assert losses.keys() == expected.keys() == {"task", "transform"}
    assert all(torch.equal(losses[name], expected[name]) for name in losses)


def test_wrong_names_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'pointmcd'"):
        build("pointmdc", every_other(), WEIGHTS)
    with pytest.raises(ConfigError, match="loss.distill: Plain has the loss terms"):
        build("plain", every_other(), WEIGHTS)
    with pytest.raises(ConfigError, match="all loss weights are 0"):
        build("plain", every_other(), {"task": 0.0})
    with pytest.raises(ConfigError, match="nothing to learn from"):
        build("pointmcd", every_other(), {"transform": 1.0})
    without = build("plain", every_other(), {"task": 1.0})
    with pytest.raises(ConfigError, match="none of the loss terms"):
        without.total({})
    assert {"plain", "pointmcd", "view_classification"} <= set(METHODS)


def test_without_a_task_no_label_is_read(batch):
    method = build("pointmcd", every_other(), {"distill": 1.0})
    del batch["label"], batch["codes"], batch["parts"]
    out = method(batch)
    assert set(out.losses) == {"distill"}
    assert out.logits is None and out.target is None


def test_global_pooling_learns_the_code_of_the_shape(batch):
    method = build("pointmcd", every_other(), WEIGHTS, pooling="global")
    assert method.fields == ("points", "codes", "label")
    found = method(batch).losses["distill"]
    student = method.network(batch["points"])
    codes = method.network.projection(student.point_features.amax(dim=1, keepdim=True))
    torch.testing.assert_close(found, (codes[:, 0] - batch["codes"]).abs().mean())


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_the_distance_reaches_the_loss(batch, distance):
    method = build("pointmcd", every_other(), {"distill": 1.0}, distance=distance).eval()
    out = method.network(batch["points"], visibility=batch["visibility"])
    expected = alignment_loss(out.view_codes, batch["view_codes"], out.seen, distance)
    assert torch.equal(method(batch).losses["distill"], expected)


def test_segmentation_is_told_the_category_and_ignores_unlabelled_points(batch):
    method = build("pointmcd", PerPoint(), {"task": 1.0, "distill": 1.0})
    assert method.fields == ("points", "parts", "view_codes", "visibility")
    out = method(batch)
    assert out.logits.shape == (3, 8, 5) and torch.equal(out.target, batch["parts"])
    rows, truth = out.logits[:, [0, 1, 2, 3, 4, 7]], batch["parts"][:, [0, 1, 2, 3, 4, 7]]
    share = torch.log_softmax(rows, dim=2)
    wanted = torch.full_like(share, 0.2 / 4).scatter(2, truth.unsqueeze(2), 0.8)
    torch.testing.assert_close(out.losses["task"], -(wanted * share).sum(dim=2).mean())
    batch["parts"] = torch.full((3, 8), -1)
    assert method(batch).losses["task"] == 0


def test_a_student_without_projection_has_no_view_codes(batch):
    with pytest.raises(ConfigError, match="was not distilled"):
        every_other()(batch["points"], visibility=batch["visibility"])
