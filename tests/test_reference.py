"""The plain published forms: what they are, and that ours compute the same."""

import pytest
import torch
from torch import nn

from models.layers import pointops
from scripts.benchmarks import students
from scripts.benchmarks.inputs import clouds, labels
from scripts.reference import operations


@pytest.fixture
def points():
    cloud = torch.rand(3, 200, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    return cloud.double()


def test_distances_are_those_between_the_points(points):
    queries = points[:, :7]
    expected = (queries.unsqueeze(2) - points.unsqueeze(1)).square().sum(dim=3)
    torch.testing.assert_close(operations.distances(queries, points), expected)


@pytest.mark.parametrize("channels", [3, 16])
def test_the_nearest_are_those_of_ours(channels):
    x = torch.randn(2, 150, channels, generator=torch.Generator().manual_seed(1))
    found = operations.nearest(x.double(), x[:, :40].double(), 9)
    assert torch.equal(found, pointops.knn(x, x[:, :40], 9))


def test_samples_and_balls_are_those_of_ours(points):
    index = operations.farthest(points, 60)
    assert torch.equal(index, pointops.farthest_point_sample(points.float(), 60))
    centres = operations.rows(points, index)
    ball = operations.ball(points, centres, 0.2, 8)
    assert torch.equal(ball, pointops.ball_query(points.float(), centres.float(), 0.2, 8))
    assert (ball == ball[..., :1]).all(dim=2).any(), "no ball had to be filled"


def test_interpolation_is_ours_with_its_gradient(points):
    known = points[:, ::5]
    features = torch.randn(3, 40, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 200, 6, dtype=torch.float64)
    results = []
    for carry in (operations.interpolate, pointops.interpolate_three_nn):
        features.grad = None
        carried = carry(points, known, features)
        carried.backward(upstream)
        results.append((carried.detach(), features.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", students.NETWORKS)
def test_the_networks_train_alike(name):
    """Logits and every gradient of a step, as the benchmark checks them before it times."""
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    network = students.NETWORKS[name]().train()
    students.check_student(name, network, clouds(2, 512, cpu), labels(2, cpu))


@pytest.mark.parametrize("name", students.NETWORKS)
def test_a_step_moves_every_weight_of_a_plain_network(name):
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    network = students.NETWORKS[name]().train()
    visibility = torch.rand(2, 512, 3) < 0.5
    outputs = network(clouds(2, 512, cpu), visibility)
    loss = nn.functional.cross_entropy(outputs["logits"], labels(2, cpu))
    if "view_codes" in outputs:
        loss = loss + outputs["view_codes"].mean()
    loss.backward()
    idle = [key for key, weight in network.named_parameters() if weight.grad is None]
    assert idle == []
