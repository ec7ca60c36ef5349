"""Part-segmentation networks: the contract, plain forms with everything built, sizes.

The plain forms concatenate, expand, gather and interpolate as the papers print it; they share with
the networks only the weights, and the blocks that other tests hold.
"""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import slow_if
from helpers import make_objective
from torch import nn

from models.encoders.curvenet_blocks import LPFA, Surroundings
from models.encoders.curvenet_seg import CurveNetSegmenter
from models.encoders.dgcnn import DGCNNSegmenter, TwoLayerEdgeConv
from models.encoders.pointnet import PointNet, PointNetSegmenter
from models.encoders.pointnet2 import (
    PointNet2Segmenter,
    Scale,
    pointnet2_msg_segmenter,
    pointnet2_ssg_segmenter,
)
from models.layers.mlp import linear_of_parts, one_hot_category
from models.layers.pointops import ball_query, farthest_point_sample, gather_rows, knn
from models.students import ENCODERS, SEGMENTERS, build_student
from models.warm_start import initialise_encoder
from utils.errors import ConfigError

PARTS, CATEGORIES = 7, 3
SMALLEST = {"pointnet2_ssg": 512, "pointnet2_msg": 512, "curvenet": 512, "dgcnn": 40}
EMBEDDING = {"pointnet": 1024, "dgcnn": 1024, "curvenet": 256}  # PointNet++: 128
CLOUD = {"curvenet": 192}  # the others: 1024

LIGHT = {"pointnet", "dgcnn"}
HEAVY = {"pointnet2_msg", "curvenet"}
every_network = pytest.mark.parametrize(
    "name", [slow_if(name in HEAVY, name) for name in SEGMENTERS]
)
every_kind = pytest.mark.parametrize(  # pointnet2_msg is pointnet2_ssg with more scales
    "name",
    [slow_if(name not in LIGHT, name) for name in SEGMENTERS if name != "pointnet2_msg"],
)


def cloud(batch: int, count: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def scatter(network: nn.Module) -> nn.Module:
    """No scale or statistic left at 0 or 1, scales of both signs, no dropout; evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            with torch.no_grad():
                module.weight[::3] *= -1
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, PointNet):
            for transform in (module.point_transform, module.feature_transform):
                nn.init.normal_(transform.last.weight, std=0.02)
    return network.eval()


def segmenter(name: str) -> nn.Module:
    torch.manual_seed(0)
    return scatter(SEGMENTERS[name](PARTS, CATEGORIES))


def small_segmenter(name: str) -> nn.Module:
    """The same, PointNet++ with smaller balls and layers: the plain form builds all of them."""
    if not name.startswith("pointnet2"):
        return segmenter(name)
    scales = (Scale(0.3, 4, (8, 8, 12)), Scale(0.5, 6, (6, 7, 9)), Scale(0.6, 3, (4, 4, 4)))
    levels = (scales[:1], scales[1:2]) if name == "pointnet2_ssg" else (scales, scales[:2])
    torch.manual_seed(0)
    return scatter(PointNet2Segmenter(PARTS, CATEGORIES, levels, (128, 128)))


# ---- plain forms


def plain_layer(linear, norm, x, slope=0.0):
    rows = norm(linear(x.flatten(0, -2)))
    return F.leaky_relu(rows, slope).view(*x.shape[:-1], -1)


def plain_mlp(mlp, x):
    for linear, norm in zip(mlp.linears, mlp.norms, strict=True):
        x = plain_layer(linear, norm, x)
    return x


def for_every_point(x, count):
    """(B, C) to (B, N, C)."""
    return x.unsqueeze(1).expand(-1, count, -1)


def one_hot(category, x):
    return torch.eye(CATEGORIES, dtype=x.dtype)[category]


def plain_three_nn(points, known, features):
    """The three nearest by sorting all distances; weights 1 / (d^2 + 1e-8), normalised."""
    squared = (points.unsqueeze(2) - known.unsqueeze(1)).square().sum(3)  # (B, N, S)
    nearest = squared.argsort(dim=2, stable=True)[..., :3]
    weight = 1 / (squared.gather(2, nearest) + 1e-8)
    weight = weight / weight.sum(2, keepdim=True)
    rows = torch.stack([f[i] for f, i in zip(features, nearest, strict=True)])
    return (rows * weight.unsqueeze(3)).sum(2)


def plain_pointnet(net, points, category):
    count = points.shape[1]
    features = net.encoder(points).point_features
    told = [features.amax(1), one_hot(category, points)]
    x = torch.cat([features, *(for_every_point(part, count) for part in told)], dim=2)
    return net.classifier(plain_mlp(net.decoder, x))


def plain_edge_conv(conv, x):
    neighbours = gather_rows(x, knn(x.detach(), x.detach(), conv.k))
    centres = x.unsqueeze(2).expand_as(neighbours)
    edges = plain_layer(
        conv.linear, conv.norm, torch.cat([centres, neighbours - centres], dim=3), 0.2
    )
    if isinstance(conv, TwoLayerEdgeConv):
        edges = plain_layer(conv.second, conv.second_norm, edges, 0.2)
    return edges.amax(2)


def plain_dgcnn(net, points, category):
    count, x, scales = points.shape[1], points, []
    for conv in net.convs:
        x = plain_edge_conv(conv, x)
        scales.append(x)
    features = plain_mlp(net.fusion, torch.cat(scales, dim=2))
    kind = plain_layer(net.category.linear, net.category.norm, one_hot(category, points), 0.2)
    told = [for_every_point(features.amax(1), count), for_every_point(kind, count)]
    x = torch.cat([*told, *scales], dim=2)
    for layer in net.decoder:
        x = plain_layer(layer.linear, layer.norm, x, 0.2)
    return net.classifier(x)


def plain_abstraction(level, points, features, centres):
    pooled = []
    for net in level.balls:
        index = ball_query(points, centres, net.radius, net.points)
        offset = gather_rows(points, index) - centres.unsqueeze(2)
        pooled.append(plain_mlp(net, torch.cat([offset, gather_rows(features, index)], 3)).amax(2))
    return torch.cat(pooled, dim=2)


def plain_pointnet2(net, points, category):
    count = points.shape[1]
    centres = gather_rows(points, farthest_point_sample(points, 512))
    few = gather_rows(centres, farthest_point_sample(centres, 128))
    first = plain_abstraction(net.first, points, points, centres)
    second = plain_abstraction(net.second, centres, first, few)
    whole = plain_mlp(net.last, torch.cat([few, second], dim=2)).amax(1)
    x = plain_mlp(net.to_second, torch.cat([second, for_every_point(whole, 128)], dim=2))
    x = plain_mlp(net.to_first, torch.cat([first, plain_three_nn(centres, few, x)], dim=2))
    told = [for_every_point(one_hot(category, points), count), points, points]
    x = plain_mlp(net.to_points, torch.cat([*told, plain_three_nn(points, centres, x)], dim=2))
    return net.classifier(plain_mlp(net.head, x))


def plain_propagation(module, points, skip, known, features):
    carried = plain_three_nn(points, known, features)
    one = plain_layer(module.of_known.linear, module.of_known.norm, carried, 1.0)
    other = plain_layer(module.of_skip.linear, module.of_skip.norm, skip, 1.0)
    gate = plain_layer(module.gate.linear, module.gate.norm, F.leaky_relu(one + other, 0.2), 1.0)
    x = torch.cat([skip * torch.sigmoid(gate), carried], dim=2)
    for layer in module.layers:
        x = plain_layer(layer.linear, layer.norm, x, 0.2)
    return x


def plain_curvenet(net, points, category):
    """Points, radii and neighbours of the paper's table, level by level; the blocks themselves are
    held by other tests."""
    count, at, levels = points.shape[1], points, []

    def place_of(at, k):
        return Surroundings(at, torch.zeros(at.shape[:2], dtype=torch.int64), k)

    x = net.first(place_of(points, 32))
    table = ((count, 0, 32), (512, 0.4, 32), (128, 0.8, 32), (32, 1.2, 31), (8, 2.0, 7))
    for (keep, radius, k), blocks in zip(table, net.stages, strict=True):
        if keep < at.shape[1]:
            kept = gather_rows(at, farthest_point_sample(at, keep))
            x = gather_rows(x, ball_query(at, kept, radius, k)).amax(2)
            at = kept
        for block in blocks:
            x = block(place_of(at, k), x)
        levels.append((at, x, k))
    of_fourth, of_fifth = (
        plain_layer(layer.linear, layer.norm, levels[i][1], 0.2).amax(1)
        for i, layer in zip((3, 4), net.of_cloud, strict=True)
    )
    for i, carry in zip((3, 2, 1, 0), net.propagations, strict=True):
        known, (at, skip, k) = levels[i + 1][0], levels[i]
        x = plain_propagation(carry, at, skip, known, x)
        if i > 0:
            x = net.refinements[3 - i](place_of(at, k), x)
    told = torch.cat([of_fourth, of_fifth, one_hot(category, points)], dim=1)
    x = torch.cat([points, x, for_every_point(told, count)], dim=2)
    for block in net.last:
        x = block(place_of(points, 32), x)
    x = plain_layer(net.head.linear, net.head.norm, x, 0.2)
    squeeze = net.channel_gate.squeeze
    gate = plain_layer(squeeze.linear, squeeze.norm, x.mean(1), 0.2)
    gate = torch.sigmoid(net.channel_gate.excite(gate))
    return net.classifier(x * for_every_point(gate, count))


PLAIN = {
    "pointnet": plain_pointnet,
    "pointnet2_ssg": plain_pointnet2,
    "pointnet2_msg": plain_pointnet2,
    "dgcnn": plain_dgcnn,
    "curvenet": plain_curvenet,
}


@pytest.mark.parametrize(
    ("name", "training"),
    [slow_if(name in HEAVY, name, mode) for name in SEGMENTERS for mode in (True, False)],
)
def test_network_equals_its_plain_form(name, training, monkeypatch):
    """Logits, gradients of every parameter and running statistics, in float64: in float32 a near
    tie of a maximum may go to another point on another machine."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # of PointNet's transforms
    tolerance = {"rtol": 1e-6, "atol": 1e-8}
    ours = small_segmenter(name).double().train(training)
    plain = copy.deepcopy(ours)
    points = cloud(2, 128 if name in ("pointnet", "dgcnn") else 530).double()
    category = torch.tensor([2, 0])
    logits, expected = ours(points, category).logits, PLAIN[name](plain, points, category)
    torch.testing.assert_close(logits, expected, **tolerance)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    for output in (logits, expected):
        (output * weights).sum().backward()
    for (key, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        scale = other.grad.abs().max().item() + 1
        torch.testing.assert_close(
            one.grad / scale, other.grad / scale, **tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_edge_convolution_of_two_layers_equals_the_plain_form(training):
    """With the batch statistics of both layers, far from zero, and the gradient of the input."""
    torch.manual_seed(2)
    fast = scatter(TwoLayerEdgeConv(5, 8, k=6)).double().train(training)
    plain = copy.deepcopy(fast)
    x = torch.randn(3, 40, 5, dtype=torch.float64) + 3.0
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = fast(ours), plain_edge_conv(plain, theirs)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-8)
    for one, other in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_aggregation_with_two_layers_equals_the_plain_form():
    torch.manual_seed(3)
    module = scatter(LPFA(6, layers=2)).double().train()
    points = cloud(2, 40).double()
    x = torch.randn(2, 40, 6, dtype=torch.float64)
    place = Surroundings(points, torch.zeros(2, 40, dtype=torch.int64), 5)
    neighbours = gather_rows(points, place.near)
    centres = points.unsqueeze(2).expand_as(neighbours)
    edges = torch.cat([centres, neighbours, neighbours - centres], dim=3)
    edges = plain_layer(module.position.linear, module.position.norm, edges, 1.0)
    edges = F.leaky_relu(edges + gather_rows(x, place.near) - x.unsqueeze(2), 0.2)
    for layer in (module.mix, module.mix_more[0]):
        edges = plain_layer(layer.linear, layer.norm, edges, 0.2)
    torch.testing.assert_close(module(place, x), edges.mean(2), rtol=1e-8, atol=1e-8)
    assert not list(LPFA(6).mix_more.parameters())


def test_a_linear_map_of_parts_is_that_of_their_concatenation():
    torch.manual_seed(4)
    linear = nn.Linear(9, 4)
    own, shared = torch.randn(2, 6, 5), torch.randn(2, 1, 4)
    whole = linear(torch.cat([own, shared.expand(-1, 6, -1)], dim=2))
    torch.testing.assert_close(linear_of_parts(linear, own, shared), whole)


# ---- the contract


@every_network
@pytest.mark.parametrize("count", ["smallest", 700])
@torch.no_grad()
def test_output_contract(name, count):
    network = segmenter(name)
    count = SMALLEST.get(name, 1) if count == "smallest" else count
    output = network(cloud(2, count), torch.tensor([0, 1]))
    assert output.logits.shape == (2, count, PARTS)
    assert network.feature_channels == EMBEDDING.get(name, 128)
    assert network.global_channels == CLOUD.get(name, 1024)
    assert output.point_features.shape == (2, count, network.feature_channels)
    assert output.global_feature.shape == (2, network.global_channels)
    assert output.point_index.dtype == torch.int64
    assert torch.equal(output.point_index, torch.arange(count).expand(2, -1))
    assert set(output.extra_losses) == ({"transform"} if name == "pointnet" else set())
    assert (output.point_features < 0).any() == (name == "curvenet")


def test_which_encoders_have_a_form_for_segmentation():
    without = {"curvenet_released", "dgcnn_published", "pointmlp", "pointmlp_elite"}
    without |= {"pointnext_s", "pointnext_s64", "pointnext_s_height"}
    assert set(SEGMENTERS) == set(ENCODERS) - without


@pytest.mark.parametrize(("name", "smallest"), SMALLEST.items())
def test_too_few_points_are_refused(name, smallest):
    with pytest.raises(ConfigError, match=f"{smallest - 1}"):
        segmenter(name)(cloud(1, smallest - 1), torch.tensor([0]))


@pytest.mark.parametrize("name", ["pointnet", "dgcnn"])
@torch.no_grad()
def test_logits_follow_the_points_into_another_order(name):
    network = segmenter(name)
    points, category = cloud(2), torch.tensor([1, 2])
    order = torch.randperm(512, generator=torch.Generator().manual_seed(5))
    one, other = network(points, category), network(points[:, order], category)
    for before, after in zip(
        (one.logits, one.point_features), (other.logits, other.point_features), strict=True
    ):
        torch.testing.assert_close(before[:, order], after, rtol=1e-3, atol=1e-3)


@every_kind
@torch.no_grad()
def test_a_cloud_does_not_depend_on_its_batch_mates(name):
    network = segmenter(name)
    points, category = cloud(3), torch.tensor([0, 2, 1])
    together = network(points, category).logits
    for sample in range(3):
        alone = network(points[sample : sample + 1], category[sample : sample + 1]).logits[0]
        torch.testing.assert_close(alone, together[sample], rtol=1e-4, atol=1e-4)


@every_kind
@torch.no_grad()
def test_the_category_reaches_every_point(name):
    network = segmenter(name)
    points = cloud(1)
    one, other = (network(points, torch.tensor([c])).logits for c in (0, 1))
    assert ((one - other).abs().amax(2) > 1e-6).all()


@every_network
def test_every_parameter_has_a_gradient(name):
    network = segmenter(name).train()
    output = network(cloud(2), torch.tensor([0, 2]))
    weight = torch.randn(output.logits.shape)
    (output.logits * weight).sum().add(sum(output.extra_losses.values())).backward()
    grads = {key: value.grad for key, value in network.named_parameters()}
    # a normalisation takes a bias before it away again: rounding errors, or none
    before_norm = {key for key in grads if re.search(r"linears\.\d+\.bias$", key)}
    assert all(gradient is not None for gradient in grads.values())
    assert not [key for key in grads.keys() - before_norm if not grads[key].any()]


@every_kind
def test_a_cloud_of_one_point_repeated_stays_finite(name):
    network = segmenter(name).train()
    points = cloud(2)
    points[1] = 0.3
    output = network(points, torch.tensor([0, 1]))
    output.logits.square().sum().backward()
    assert output.logits.isfinite().all()
    assert all(value.grad.isfinite().all() for value in network.parameters())


@every_kind
def test_bfloat16_trains_and_stays_near(name):
    network = segmenter(name)
    points, category = cloud(2, SMALLEST.get(name, 40)), torch.tensor([0, 1])
    with torch.no_grad():
        plain = network(points, category).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = network(points, category).logits.float()
    assert (cast - plain).norm() < 0.1 * plain.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network.train()(points, category).logits.float().square().mean()
    loss.backward()
    assert all(value.grad.isfinite().all() for value in network.parameters())


@every_network
@pytest.mark.parametrize(
    ("category", "message"),
    [
        (None, "found no category"),
        (torch.tensor([0, CATEGORIES]), r"0 \.\. 2, found 0 \.\. 3"),
        (torch.tensor([-1, 0]), r"found -1 \.\. 0"),
        (torch.tensor([0]), "each of the 2 clouds"),
        (torch.tensor([0.0, 1.0]), "found float32"),
    ],
)
def test_a_category_that_says_nothing_is_refused(name, category, message):
    with pytest.raises(ConfigError, match=message):
        segmenter(name)(cloud(2), category)


def test_one_hot_rows():
    rows = one_hot_category(torch.tensor([2, 0]), 3, torch.zeros(2, 5, 3, dtype=torch.float64))
    assert rows.tolist() == [[0, 0, 1], [1, 0, 0]] and rows.dtype == torch.float64


# ---- sizes


def curvenet_parameters(parts: int, categories: int) -> int:
    """Counted from the paper's table; a layer a -> b has a * b weights and 2 * b of its norm."""

    def layer(before, after):
        return before * after + 2 * after

    def block(before, after, ratio, curves=False):
        c = before // ratio
        total = layer(before, c) + layer(9, c) + 2 * layer(c, c) + layer(c, after)
        if before != after:
            total += layer(before, after)
        if curves:  # score, choice of the step, momentum; attention of points to curves
            half = c // 2
            total += c + layer(2 * c, 1) + layer(2 * c, 2)
            total += c + 3 * c * half + 2 * half * half + layer(2 * half, c)
        return total

    def gated(known, channels):
        middle = channels // 2
        gate = layer(known, middle) + layer(channels, middle) + layer(middle, 1)
        return gate + layer(known + channels, channels) + layer(channels, channels)

    total = layer(9, 32)
    total += block(32, 64, 2, True) + block(64, 64, 4, True)
    total += block(64, 128, 2, True) + block(128, 128, 4, True)
    total += block(128, 256, 2) + block(256, 256, 4)
    total += block(256, 512, 2) + block(512, 512, 4)
    total += block(512, 1024, 2) + 2 * block(1024, 1024, 4)
    total += layer(512, 64) + layer(1024, 128)
    total += gated(1024, 512) + gated(512, 256) + gated(256, 128) + gated(128, 64)
    total += block(512, 512, 4) + block(256, 256, 4) + block(128, 128, 4)
    total += block(3 + 64 + 64 + 128 + categories, 256, 4) + block(256, 256, 4)
    total += layer(256, 256) + layer(256, 32) + 32 * 256
    return total + 256 * parts + parts


# 16 categories and 50 parts, as published, without training-only heads
PARAMETERS = {
    "pointnet": 1_728_009,
    "dgcnn": 659_072,
    "pointnet2_ssg": 1_411_250,
    "pointnet2_msg": 1_740_958,
    "curvenet": curvenet_parameters(50, 16),
}


@every_network
def test_parameter_count_is_that_of_the_papers_network(name):
    network = SEGMENTERS[name](50, 16)
    assert sum(value.numel() for value in network.parameters()) == PARAMETERS[name]


def test_numbers_that_no_parameter_shows_are_those_of_the_papers():
    ssg, msg = pointnet2_ssg_segmenter(50, 16), pointnet2_msg_segmenter(50, 16)
    balls = [
        [[(net.radius, net.points) for net in level.balls] for level in (net.first, net.second)]
        for net in (ssg, msg)
    ]
    assert balls == [
        [[(0.2, 32)], [(0.4, 64)]],
        [[(0.1, 32), (0.2, 64), (0.4, 128)], [(0.4, 64), (0.8, 128)]],
    ]
    dgcnn, curvenet = DGCNNSegmenter(50, 16), CurveNetSegmenter(50, 16)
    assert [conv.k for conv in dgcnn.convs] == [40, 40, 40]
    assert [type(conv) is TwoLayerEdgeConv for conv in dgcnn.convs] == [True, True, False]
    assert all(net.dropout.p == 0.5 for net in (ssg, msg, dgcnn, curvenet))
    assert not any(isinstance(m, nn.Dropout) for m in PointNetSegmenter(50, 16).modules())
    assert [module.gate.linear.in_features for module in curvenet.propagations] == [
        256,
        128,
        64,
        32,
    ]


def test_dropout_is_between_the_layers_of_the_decoders():
    for name in ("pointnet2_ssg", "dgcnn", "curvenet"):
        network = SEGMENTERS[name](PARTS, CATEGORIES).eval()
        network.dropout.train()
        points, category = cloud(1), torch.tensor([0])
        with torch.no_grad():
            one, other = network(points, category), network(points, category)
        assert torch.equal(one.point_features, other.point_features)
        assert not torch.equal(one.logits, other.logits)


def test_pointnet_starts_from_the_encoder_of_classification():
    """The weights below ``encoder.`` are those of the classification encoder, and no other network
    has weights of that name, because the layers differ."""
    given = PointNet().state_dict()
    own = SEGMENTERS["pointnet"](PARTS, CATEGORIES).state_dict()
    below = {
        key.removeprefix("encoder."): v for key, v in own.items() if key.startswith("encoder.")
    }
    assert {k: v.shape for k, v in below.items()} == {k: v.shape for k, v in given.items()}
    for name in set(SEGMENTERS) - {"pointnet"}:
        state = SEGMENTERS[name](PARTS, CATEGORIES).state_dict()
        assert not any(key.startswith("encoder.") for key in state)


@every_network
def test_a_student_of_it_gives_view_codes(name):
    student = build_student(name, PARTS, task="segmentation", num_categories=CATEGORIES).eval()
    head = make_objective(student, {"alignment": 1.0}).terms["alignment"].eval()
    student.heads["alignment"] = head
    seen = torch.rand(2, 512, 4, generator=torch.Generator().manual_seed(6)) < 0.3
    output = student(cloud(2), torch.tensor([0, 1]), seen)
    assert output.logits.shape == (2, 512, PARTS)
    assert output.view_codes.shape == (2, 4, 512)


# ---- first weights


def described(encoder: str, task: str, parts: int = PARTS, categories: int = CATEGORIES):
    """Arguments of a student, the student, and what a checkpoint of it holds."""
    categories = categories if task == "segmentation" else 0
    build = {"encoder": encoder, "num_classes": parts, "task": task, "num_categories": categories}
    student = build_student(**build)
    return build, student, {"build": build, "model": student.state_dict()}


@every_network
@pytest.mark.parametrize("categories", [CATEGORIES, CATEGORIES + 2])
def test_a_segmenter_starts_from_the_embeddings_of_another(name, categories):
    torch.manual_seed(0)
    _, first, content = described(name, "segmentation", PARTS + 1, categories)
    build, second, _ = described(name, "segmentation")
    initialise_encoder(second, build, content, "first.pth")
    if categories == CATEGORIES:  # all that the embeddings come from
        points, kind = cloud(2), torch.tensor([0, 2])
        first.eval(), second.eval()
        found = [student(points, category=kind).point_features for student in (first, second)]
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    else:
        read = first.network.category_layers
        for layer in first.network.encoder_layers:
            states = [getattr(student.network, layer).state_dict() for student in (first, second)]
            if layer not in read:
                assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_other_encoders_are_no_first_weights():
    build, student, _ = described("curvenet", "classification")
    with pytest.raises(ConfigError, match="do not fit the encoder here: .* missing"):
        initialise_encoder(student, build, described("dgcnn", "classification")[2], "dgcnn.pth")
    initialise_encoder(
        student, build, described("curvenet_released", "classification")[2], "released.pth"
    )
    build, student, _ = described("dgcnn", "segmentation")
    with pytest.raises(ConfigError, match="only PointNet shares"):
        initialise_encoder(student, build, described("dgcnn", "classification")[2], "cls.pth")
    for task, other in (("classification", "segmentation"), ("segmentation", "classification")):
        build, student, _ = described("pointnet", task)
        initialise_encoder(student, build, described("pointnet", other)[2], "other.pth")
