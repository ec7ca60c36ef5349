"""Training methods: what they ask for, what they compute, what stays."""

import pytest
import torch
from torch import nn

from models.methods import METHODS, Plain, PointMCD, build_method
from models.outputs import StudentOutput
from models.projection import alignment_loss
from utils.errors import ConfigError

WEIGHTS = {"task": 0.1, "distill": 1.0, "transform": 0.001}


class EveryOther(nn.Module):
    """A student whose embeddings belong to every other point, in reverse order."""

    class Encoder(nn.Module):
        feature_channels = 6

    def __init__(self):
        super().__init__()
        self.encoder = self.Encoder()
        self.linear = nn.Linear(3, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, points):
        index = torch.arange(points.shape[1] - 1, -1, -2).expand(len(points), -1)
        rows = points.gather(1, index.unsqueeze(2).expand(-1, -1, 3))
        features = self.linear(rows)
        pooled = features.amax(dim=1)
        extra = {"transform": features.square().mean()}
        return StudentOutput(self.head(pooled), pooled, features, index, extra)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {
        "points": torch.randn(3, 8, 3),
        "label": torch.tensor([0, 1, 3]),
        "visibility": torch.rand(3, 8, 5) < 0.4,
        "view_codes": torch.rand(3, 5, 512),
    }


def test_fields_follow_the_weights():
    student = EveryOther()
    everything = ("points", "label", "view_codes", "visibility")
    assert build_method("pointmcd", student, WEIGHTS).fields == everything
    assert build_method("pointmcd", student, {**WEIGHTS, "distill": 0}).fields == (
        "points",
        "label",
    )
    without_labels = build_method("pointmcd", student, {"distill": 1.0})
    assert without_labels.fields == ("points", "view_codes", "visibility")
    assert build_method("plain", student, {"task": 1.0}).fields == ("points", "label")


def test_distillation_reads_the_visibility_of_the_points_that_carry_embeddings(batch):
    method = PointMCD(EveryOther(), WEIGHTS, smoothing=0.2)
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
    expected = alignment_loss(method.projection(pooled), batch["view_codes"], seen)
    torch.testing.assert_close(out.losses["distill"], expected)
    total = method.total(out.losses)
    torch.testing.assert_close(total, sum(WEIGHTS[name] * out.losses[name] for name in WEIGHTS))
    total.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_weight_zero_is_not_computed_and_has_no_head(batch):
    method = PointMCD(EveryOther(), {**WEIGHTS, "distill": 0.0}, smoothing=0.2)
    assert not hasattr(method, "projection")
    del batch["visibility"], batch["view_codes"]
    plain = Plain(method.network, {"task": 0.1, "transform": 0.001}, smoothing=0.2)
    losses, expected = method(batch).losses, plain(batch).losses
    assert losses.keys() == expected.keys() == {"task", "transform"}
    assert all(torch.equal(losses[name], expected[name]) for name in losses)


def test_wrong_names_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'pointmcd'"):
        build_method("pointmdc", EveryOther(), WEIGHTS)
    with pytest.raises(ConfigError, match="loss.distill: Plain has the loss terms"):
        build_method("plain", EveryOther(), WEIGHTS)
    with pytest.raises(ConfigError, match="all loss weights are 0"):
        build_method("plain", EveryOther(), {"task": 0.0})
    without = build_method("plain", EveryOther(), {"transform": 1.0})
    with pytest.raises(ConfigError, match="none of the loss terms"):
        without.total({})
    assert set(METHODS) == {"plain", "pointmcd", "view_classification"}
