"""CurveNet: blocks and the whole network against plain forms with every edge and step built."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import slow_if

from models.encoders.curvenet import BLOCKS, CurveAggregation, CurveGrouping, CurveNet
from models.encoders.curvenet_blocks import LPFA, FirstLPFA, Surroundings, Walk, keep_ahead
from models.layers.pointops import ball_query, farthest_point_sample, knn
from utils.errors import ConfigError


def pick(x, index):
    """Rows of each cloud: (B, N, C) and (B, ...) give (B, ..., C)."""
    return torch.stack([cloud[rows] for cloud, rows in zip(x, index, strict=True)])


def leaky(x):
    return F.leaky_relu(x, 0.2)


def plain_norm(norm, x):
    return norm(x.flatten(0, -2)).view_as(x)


def plain_positions(module, points, near):
    """BN(W [centre, neighbour, neighbour - centre]) on every edge, (B, N, k, C)."""
    neighbours = pick(points, near)
    centres = points.unsqueeze(2).expand_as(neighbours)
    edges = torch.cat([centres, neighbours, neighbours - centres], dim=3)
    return plain_norm(module.norm, module.linear(edges))


def plain_lpfa(module, points, near, x):
    edges = pick(x, near) - x.unsqueeze(2) + plain_positions(module.position, points, near)
    mixed = plain_norm(module.mix.norm, module.mix.linear(leaky(edges)))
    return leaky(mixed).mean(dim=2)


def plain_walk(module, x, ahead, start):
    """One curve after the other; normalisation needs a step of all curves at once."""
    batch, curves = start.shape
    here = [[int(start[b, i]) for i in range(curves)] for b in range(batch)]
    current = torch.stack([torch.stack([x[b, j] for j in here[b]]) for b in range(batch)])
    descriptor, visited = current, []
    for step in range(module.steps):
        if step:
            pairs = module.blend.linear(torch.cat([current, descriptor], dim=2))
            pairs = plain_norm(module.blend.norm, pairs).softmax(dim=2)
            if module.released_momentum:  # the (2, n) table of each cloud read as (n, 2)
                pairs = torch.stack([table.T.reshape(curves, 2) for table in pairs])
            descriptor = pairs[:, :, :1] * current + pairs[:, :, 1:] * descriptor
        candidates = [[x[b, ahead[b, here[b][i]]] for i in range(curves)] for b in range(batch)]
        candidates = torch.stack([torch.stack(rows) for rows in candidates])  # (B, n, k, C)
        both = torch.cat([candidates, descriptor.unsqueeze(2).expand_as(candidates)], dim=3)
        logits = plain_norm(module.choose_norm, module.choose(both)).squeeze(3)
        following = torch.empty_like(current)
        for b in range(batch):
            for i in range(curves):
                score = logits[b, i]
                if step:
                    come = (current[b, i] - descriptor[b, i]).detach()
                    go = (candidates[b, i] - current[b, i]).detach()
                    cosine = (go * come).sum(1) / (go.norm(dim=1) * come.norm()).clamp(min=1e-8)
                    score = score * (1 + cosine).clamp(0, 1)
                soft = score.softmax(0)
                best = int(soft.argmax())
                hard = F.one_hot(torch.tensor(best), len(soft)) - soft.detach() + soft
                following[b, i] = hard @ candidates[b, i]
                here[b][i] = int(ahead[b, here[b][i], best])
        current = following
        visited.append(current)
    return torch.stack(visited, dim=2)


def plain_aggregation(module, x, curves):
    score = module.weigh(curves)
    of_curves = (curves * score.softmax(2)).sum(2)
    of_steps = (curves * score.softmax(1)).sum(1)
    query, key, step_key = module.query(x), module.curve_key(of_curves), module.step_key(of_steps)
    between = torch.einsum("bnc,bmc->bnm", query, key).softmax(2)
    within = torch.einsum("bnc,bmc->bnm", query, step_key).softmax(2)
    parts = [between @ module.curve_value(key), within @ module.step_value(step_key)]
    merged = module.merge.linear(torch.cat(parts, dim=2))
    return leaky(x + plain_norm(module.merge.norm, merged))


def plain_curvenet(net, points, walk):
    """The published order of operations; ``walk(module, x, ahead, start)`` walks the curves."""
    nearest = knn(points, points, 21)
    original = torch.arange(points.shape[1]).expand(len(points), -1)
    x = leaky(plain_positions(net.first.position, points, nearest[..., :20])).amax(dim=2)
    for spec, block in zip(BLOCKS, net.blocks, strict=True):
        if spec.keep is not None and points.shape[1] > spec.keep:
            kept = farthest_point_sample(points, spec.keep)
            centres = pick(points, kept)
            x = pick(x, ball_query(points, centres, spec.radius, 20)).amax(dim=2)
            points, original = centres, original.gather(1, kept)
        squeezed = plain_norm(block.squeeze.norm, block.squeeze.linear(x))
        inner = leaky(squeezed)
        nearest = knn(points, points, 21)
        if spec.curves:
            score = torch.sigmoid(block.grouping.score(inner))
            if block.grouping.walk.released_momentum:
                start = score.squeeze(2).topk(100, dim=1, sorted=False).indices
            else:
                start = score.squeeze(2).argsort(dim=1, descending=True, stable=True)[:, :100]
            curves = walk(block.grouping.walk, inner * score, nearest[..., 1:], start)
            inner = plain_aggregation(block.aggregation, inner, curves)
        inner = plain_lpfa(block.lpfa, points, nearest[..., :20], inner)
        out = plain_norm(block.expand.norm, block.expand.linear(inner))
        if spec.before != spec.after:
            x = plain_norm(block.shortcut.norm, block.shortcut.linear(x))
        x = leaky(out + x)
    features = net.last(x)
    return features, original


def scatter_norms(module):
    """Norms as after some training: scales of both signs, statistics that are not 0 and 1."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(norm.weight, 0.5, 0.7)
            torch.nn.init.normal_(norm.bias)
            torch.nn.init.normal_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return module


def assert_same_training_effect(fast, plain, out, expected):
    """Equal values, gradients of every parameter (none of them without one), running statistics."""
    torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-8)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-7, msg=name)
    for ours, theirs in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("training", [True, False])
def test_point_aggregation_equals_the_plain_form(training):
    torch.manual_seed(0)
    points = torch.randn(2, 50, 3, dtype=torch.float64) + 2.0
    every = torch.arange(50).expand(2, -1)
    place = Surroundings(points, every, k=6)
    first = scatter_norms(FirstLPFA(8)).double().train(training)
    plain = copy.deepcopy(first)
    expected = leaky(plain_positions(plain.position, points, place.near)).amax(dim=2)
    assert_same_training_effect(first, plain, first(place), expected)

    later = scatter_norms(LPFA(8)).double().train(training)
    plain = copy.deepcopy(later)
    x = torch.randn(2, 50, 8, dtype=torch.float64)
    expected = plain_lpfa(plain, points, place.near, x)
    assert_same_training_effect(later, plain, later(place, x), expected)


@pytest.mark.parametrize("released_momentum", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_walk_and_aggregation_equal_the_plain_form(training, released_momentum):
    torch.manual_seed(1)
    walk = scatter_norms(Walk(8, 4, released_momentum)).double().train(training)
    plain = copy.deepcopy(walk)
    x_fast = torch.randn(2, 40, 8, dtype=torch.float64, requires_grad=True)
    x_plain = x_fast.detach().clone().requires_grad_()
    positions = torch.randn(2, 40, 3)
    ahead = knn(positions, positions, 6)[..., 1:]
    start = torch.randint(0, 40, (2, 7))
    curves = walk(x_fast, ahead, start)
    assert_same_training_effect(walk, plain, curves, plain_walk(plain, x_plain, ahead, start))
    torch.testing.assert_close(x_fast.grad, x_plain.grad, rtol=1e-7, atol=1e-8)
    assert all(p.grad.abs().sum() > 0 for p in (walk.choose.weight, walk.blend.linear.weight))

    aggregation = scatter_norms(CurveAggregation(8)).double().train(training)
    plain = copy.deepcopy(aggregation)
    x, curves = x_fast.detach(), curves.detach()
    expected = plain_aggregation(plain, x, curves)
    assert_same_training_effect(aggregation, plain, aggregation(x, curves), expected)


def test_every_visited_point_is_ahead_of_the_one_before():
    torch.manual_seed(2)
    x, positions = torch.randn(1, 60, 8), torch.randn(1, 60, 3)
    ahead = knn(positions, positions, 6)[..., 1:]
    start = torch.arange(0, 60, 6).view(1, -1)
    curves = Walk(8, 5, False)(x, ahead, start)[0]  # (n, l, C)
    visited = torch.cdist(curves.flatten(0, 1), x[0]).argmin(dim=1).view(10, 5)
    torch.testing.assert_close(curves, x[0, visited])
    for curve, here in zip(visited.tolist(), start[0].tolist(), strict=True):
        for following in curve:
            assert following in ahead[0, here].tolist()
            here = following


def test_crossover_suppression_damps_only_turning_back():
    current, descriptor = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    steps = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [-1.0, 3**0.5], [0.0, 0.0]])
    factor = keep_ahead(current, descriptor, (current + steps)[None])
    torch.testing.assert_close(factor[0, 0], torch.tensor([1.0, 1.0, 0.0, 0.5, 1.0]))


def test_equal_scores_start_at_the_lowest_indices():
    grouping = CurveGrouping(16, released_momentum=False)
    started = []
    grouping.walk.forward = lambda x, ahead, start: started.append(start)
    grouping(torch.zeros(1, 300, 16), torch.zeros(1, 300, 20, dtype=torch.int64))
    assert started[0].tolist() == [list(range(100))]


@pytest.mark.parametrize("released_momentum", [False, True])
@pytest.mark.parametrize(
    ("training", "count"),
    [
        (False, 300),
        slow_if(True, True, 300),
        slow_if(True, False, 1100),
    ],
)
def test_whole_network_equals_the_plain_form(training, count, released_momentum):
    torch.manual_seed(3)
    net = CurveNet(released_momentum=released_momentum).double().train(training)
    plain = copy.deepcopy(net)
    points = (torch.rand(2, count, 3) * 2 - 1).double()
    out = net(points)
    walk = plain_walk if training else torch.nn.Module.__call__
    features, original = plain_curvenet(plain, points, walk)
    assert torch.equal(out.point_index, original)
    pooled = torch.cat([features.amax(dim=1), features.mean(dim=1)], dim=1)
    torch.testing.assert_close(out.global_feature, pooled, rtol=1e-8, atol=1e-8)
    assert_same_training_effect(net, plain, out.point_features, features)
    assert (out.point_features >= 0).all()


def test_the_two_readings_of_the_momentum_table_differ():
    """Without this the switch could be dropped: descriptors, and with them some steps, differ."""
    torch.manual_seed(4)
    walk = scatter_norms(Walk(8, 5, False)).eval()
    released = copy.deepcopy(walk)
    released.released_momentum = True
    current, descriptor = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    ours, theirs = walk.update(current, descriptor), released.update(current, descriptor)
    assert not torch.allclose(ours, theirs, atol=0.1)
    x, positions = torch.randn(2, 200, 8), torch.randn(2, 200, 3)
    ahead, start = knn(positions, positions, 6)[..., 1:], torch.arange(200).expand(2, -1)
    assert not torch.allclose(walk(x, ahead, start), released(x, ahead, start), atol=0.1)


@pytest.mark.slow
def test_small_clouds():
    out = CurveNet().eval()(torch.rand(1, 256, 3))
    assert out.point_features.shape == (1, 64, 1024)
    assert out.point_index[0, 0] == 0 and len(out.point_index.unique()) == 64
    same = CurveNet()(torch.full((2, 256, 3), 0.1))
    assert torch.isfinite(same.global_feature).all()
    with pytest.raises(ConfigError, match="at least 256 points, found 255"):
        CurveNet()(torch.rand(1, 255, 3))


def test_autocast_keeps_the_geometry():
    torch.manual_seed(5)
    net = CurveNet().eval()
    points = torch.rand(2, 300, 3) * 2 - 1
    expected = net(points)
    first = FirstLPFA(8).train()
    first_features = first(Surroundings(points, expected.point_index, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(points)
        again = first(Surroundings(points, expected.point_index, 20))
    assert torch.equal(out.point_index, expected.point_index)
    torch.testing.assert_close(again, first_features)
    assert torch.isfinite(out.global_feature).all()


def test_parameters_are_those_of_the_release():
    """The released classifier of 40 classes has 2,140,672, its head 2048-512-40 among them."""
    head = 2048 * 512 + 2 * 512 + 512 * 40 + 40
    assert sum(p.numel() for p in CurveNet().parameters()) == 2_140_672 - head


def test_points_are_dropped_as_in_the_paper():
    drops = [(i, spec.keep, spec.radius) for i, spec in enumerate(BLOCKS) if spec.keep is not None]
    assert drops == [(0, 1024, 0.05), (4, 256, 0.1), (6, 64, 0.2)]
    assert [spec.curves for spec in BLOCKS] == 4 * [True] + 4 * [False]
