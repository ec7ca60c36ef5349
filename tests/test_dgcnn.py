"""DGCNN: the fast edge convolution against its plain form, and the structure of the release."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from models.encoders.dgcnn import DGCNN, EdgeConv
from models.layers.edges import edge_moments, neighbour_max, neighbour_mean
from models.layers.pointops import knn


def gather_edges(x, index):
    """The edges in full: (B, N, C) and (B, S, k) give (B, S, k, C)."""
    return torch.stack([cloud[rows] for cloud, rows in zip(x, index, strict=True)])


def plain_edge_conv(conv, x):
    """The equation as it is printed: build every edge, then linear, norm, activation, maximum."""
    index = knn(x.detach(), x.detach(), conv.k)
    neighbours = gather_edges(x, index)
    centres = x.unsqueeze(2).expand_as(neighbours)
    edges = torch.cat([centres, neighbours - centres], dim=3)
    rows = conv.norm(conv.linear(edges.flatten(0, 2)))
    return F.leaky_relu(rows, 0.2).view(*index.shape, -1).amax(dim=2)


def plain_dgcnn(net, points):
    scales = [points]
    for conv in net.convs:
        scales.append(plain_edge_conv(conv, scales[-1]))
    return net.fusion(torch.cat(scales[1:], dim=2))


def scatter_norms(module):
    """Norms as after some training: scales of both signs, statistics that are not 0 and 1."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
            torch.nn.init.normal_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return module


@pytest.mark.parametrize("training", [True, False])
def test_edge_conv_equals_the_plain_form(training):
    torch.manual_seed(0)
    fast = scatter_norms(EdgeConv(5, 8, k=6)).double().train(training)
    plain = copy.deepcopy(fast)
    x = torch.randn(3, 40, 5, dtype=torch.float64) + 3.0
    x_fast, x_plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = fast(x_fast), plain_edge_conv(plain, x_plain)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x_fast.grad, x_plain.grad, rtol=1e-8, atol=1e-8)
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-8, msg=name)
    for ours, theirs in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_whole_network_equals_the_plain_form_in_float32(training):
    torch.manual_seed(1)
    net = DGCNN().train(training)
    points = torch.rand(2, 128, 3) * 2 - 1
    plain = plain_dgcnn(copy.deepcopy(net), points)
    out = net(points)
    torch.testing.assert_close(out.point_features, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.global_feature, out.point_features.amax(dim=1))
    assert (out.point_features >= 0).all()


def test_reductions_and_moments_on_a_given_graph():
    """A graph with an unused point, a point named twice, and one neighbour list for two points."""
    own = torch.tensor([[[1.0], [5.0], [-2.0]]])
    other = torch.tensor([[[4.0], [-3.0], [10.0]]])
    index = torch.tensor([[[0, 1], [1, 1], [0, 1]]])
    assert neighbour_max(other, index).flatten().tolist() == [4.0, -3.0, 4.0]
    assert neighbour_mean(other, index).flatten().tolist() == [0.5, -3.0, 0.5]
    edges = torch.tensor([1 + 4, 1 - 3, 5 - 3, 5 - 3, -2 + 4, -2 - 3.0])
    mean, variance = edge_moments(own, other, index)
    torch.testing.assert_close(mean, edges.mean(dim=0, keepdim=True))
    torch.testing.assert_close(variance, edges.var(unbiased=False).view(1))


def test_a_graph_of_all_points_and_a_cloud_of_one_place():
    net = DGCNN(k=20).eval()
    same = torch.full((2, 20, 3), 0.3)
    features = net(same).point_features
    assert torch.isfinite(features).all()
    torch.testing.assert_close(features, features[:, :1].expand_as(features))
    net.train()
    assert torch.isfinite(net(same).point_features).all()


def test_moments_survive_features_far_from_zero():
    """The mean is taken off before squaring: float32 keeps the variance at an offset of 1000."""
    torch.manual_seed(2)
    own, other = torch.randn(2, 64, 4) + 1000, torch.randn(2, 64, 4) - 500
    index = torch.randint(0, 64, (2, 64, 7))
    edges = own.double().unsqueeze(2) + gather_edges(other.double(), index)
    _, variance = edge_moments(own, other, index)
    expected = edges.flatten(0, 2).var(dim=0, unbiased=False)
    torch.testing.assert_close(variance.double(), expected, rtol=1e-3, atol=0)


def test_autocast_leaves_the_graph_and_the_moments_in_float32():
    torch.manual_seed(3)
    net = DGCNN(k=8)
    points = torch.rand(2, 100, 3) * 2 - 1
    expected = net.convs[0](points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = net.convs[0](points)
        out = net(points)
    assert first.dtype is torch.float32
    torch.testing.assert_close(first, expected, rtol=0.02, atol=0.05)
    assert torch.isfinite(out.point_features).all()


def test_weights_are_those_of_the_release():
    """Four edge convolutions on 2 x (3, 64, 64, 128) channels and the fusion, all without bias."""
    matrices = [tuple(p.shape) for p in DGCNN().parameters() if p.dim() == 2]
    assert matrices == [(64, 6), (64, 128), (128, 128), (256, 256), (1024, 512)]
    vectors = [len(p) for p in DGCNN().parameters() if p.dim() == 1]
    assert sorted(vectors) == sorted(2 * [64, 64, 128, 256, 1024])  # scale and shift of each norm
