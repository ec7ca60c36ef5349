"""PointMLP and PointNeXt train as their plain forms do; the edge functions that they rest on."""

import pytest
import torch
from conftest import slow_if
from torch import nn

from models.layers.edges import edge_deviation, edge_norm_relu
from models.layers.pointops import gather_rows
from models.release.convert import convert
from models.students import build_student
from scripts.reference import pointmlp, pointnext

PLAIN = {
    "pointmlp_elite": pointmlp.elite,
    "pointnext_s": lambda: pointnext.PointNeXt(40, 8),
    "pointnext_s_height": lambda: pointnext.PointNeXt(40, 8, 4),
}


def cloud(batch: int, count: int) -> torch.Tensor:
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1


def graph(channels: int, offset: float = 0.0):
    """Features of centres (2, 6, C), of points (2, 20, C), and neighbours (2, 6, 5)."""
    torch.manual_seed(0)
    features = (torch.randn(2, 20, channels, dtype=torch.float64) + offset).requires_grad_()
    index = torch.randint(0, 20, (2, 6, 5))
    return features[:, :6], features, index


@pytest.mark.parametrize("name", [slow_if("elite" in name, name) for name in PLAIN])
def test_a_training_pass_is_that_of_the_plain_network(name):
    """Logits, running statistics and every gradient, in double precision."""
    torch.manual_seed(0)
    plain = PLAIN[name]().double().train()
    ours = convert(plain.state_dict(), name).network.double().train()
    for module in (*plain.modules(), *ours.modules()):
        if isinstance(module, nn.Dropout):
            module.eval()
    points = cloud(2, 512).double()
    weight = torch.randn(2, 40, dtype=torch.float64)
    outputs = [plain(points)["logits"], ours(points).logits]
    for logits in outputs:
        (logits * weight).sum().backward()
    torch.testing.assert_close(*outputs, rtol=1e-7, atol=1e-7)
    gradients = {key: value.grad for key, value in plain.named_parameters()}
    of_plain = convert({**plain.state_dict(), **gradients}, name).network
    of_plain = {key: value.double() for key, value in of_plain.named_parameters()}
    for key, value in ours.named_parameters():
        torch.testing.assert_close(value.grad, of_plain[key], rtol=2e-5, atol=1e-5, msg=key)
    moved = convert(plain.state_dict(), name).network
    for key, value in moved.named_buffers():
        torch.testing.assert_close(ours.get_buffer(key).to(value.dtype), value)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_deviation_is_that_of_all_differences_of_a_cloud(offset):
    own, features, index = graph(7, offset)
    found = edge_deviation(own, features, index)
    difference = gather_rows(features, index) - own.unsqueeze(2)
    expected = difference.flatten(1).std(dim=1).view(2, 1, 1)
    torch.testing.assert_close(found, expected)
    slopes = [
        torch.autograd.grad(x.sum(), features, retain_graph=True)[0] for x in (found, expected)
    ]
    torch.testing.assert_close(*slopes)
    single = edge_deviation(own.float(), features.float(), index)
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=0)


def test_the_deviation_of_equal_features_is_a_small_constant():
    own, features, index = graph(7)
    features = torch.full_like(features, 0.3).requires_grad_()
    found = edge_deviation(features[:, :6], features, index)
    torch.testing.assert_close(found, torch.full_like(found, 1e-6))
    (slope,) = torch.autograd.grad(found.sum(), features)
    assert not slope.any()


@pytest.mark.parametrize("training", [True, False])
def test_normalised_edges_are_those_of_batch_normalisation(training):
    own, other, index = graph(7)
    norms = [nn.BatchNorm1d(7).double().train(training) for _ in range(2)]
    for norm in norms:
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    edges = (gather_rows(other, index) + own.unsqueeze(2)).flatten(0, 2)
    expected = torch.relu(norms[0](edges)).view(2, 6, 5, 7)
    found = edge_norm_relu(norms[1], own, other, index)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    slopes = [
        torch.autograd.grad((x * weight).sum(), [other, norm.weight, norm.bias])
        for x, norm in ((expected, norms[0]), (found, norms[1]))
    ]
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(norms[1].state_dict(), norms[0].state_dict())


@torch.no_grad()
def test_height_is_measured_from_the_lowest_point_of_each_cloud():
    encoder = build_student("pointnext_s_height", 5).encoder
    points = cloud(2, 64)
    read = encoder.read(points)
    assert torch.equal(read[..., :3], points)
    assert torch.equal(read[..., 3].amin(dim=1), torch.zeros(2))
    assert torch.equal(read[..., 3], points[..., 2] - points[..., 2].amin(dim=1, keepdim=True))
    moved = encoder.read(points + torch.tensor([0.0, 0.0, 5.0]))
    torch.testing.assert_close(moved[..., 3], read[..., 3], rtol=0, atol=1e-6)
