"""The forms of the kernels agree to the bit, whatever the sizes, ties and types."""

from __future__ import annotations

import pytest
import torch
from helpers import points, seen_by
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels import cpu, ops, plain
from models.terms.alignment import visible_max_pool

KINDS = ["random", "lattice", "equal"]
COUNTS = [1, 2, 63, 64, 65, 300]  # around the blocks of the loops


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", COUNTS)
def test_farthest_points_are_the_same(kind, count):
    cloud = points(kind, count)
    for start in (0, count - 1):
        for skip in (False, True):
            found = cpu.farthest_point_sample(cloud, count, start, skip)
            assert torch.equal(found, plain.farthest_point_sample(cloud, count, start, skip))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("radius", [0.05, 0.7, 1.0, 50.0])
def test_balls_are_the_same(kind, count, radius):
    cloud, centres = points(kind, count), points(kind, 20, seed=1)
    centres[:, -3:] += 9  # empty balls, unless the radius is large
    for k in (1, 32, count, count + 5):
        found = cpu.ball_query(cloud, centres, radius, k)
        assert torch.equal(found, plain.ball_query(cloud, centres, radius, k))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_nearest_are_the_same(kind, count, axes):
    cloud, queries = points(kind, count, axes=axes), points(kind, 17, axes=axes, seed=1)
    for k in {1, min(20, count), min(33, count), count}:
        assert torch.equal(cpu.knn(cloud, queries, k), plain.knn(cloud, queries, k))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", ["random", "few", "special", "not numbers"])
def test_smallest_are_the_same(count, case):
    values = points("random", 9 * count).view(2, 9, 3 * count)[..., :count].contiguous()
    if case == "few":
        values = values.round()
    if case == "special":
        values[..., ::3] = -0.0
        values[..., 1::3] = 0.0
        values[..., 2::5] = torch.inf
        values[..., 3::7] = -torch.inf
    if case == "not numbers":
        values[..., ::2] = torch.nan
        values[:, 0] = -torch.nan
        values[:, 1] = torch.inf
    for k in {1, min(20, count), min(33, count), count}:
        found = cpu.smallest(values, k)
        assert torch.equal(found, plain.smallest(values, k))
        # a stable sort has the same order: zeros equal, what is not a number last
        assert torch.equal(found, values.sort(dim=2, stable=True).indices[..., :k])


@pytest.mark.parametrize("name", ["farthest_point_sample", "ball_query", "knn"])
def test_indices_of_points_that_are_not_finite_are_in_range(name):
    cloud = points("random", 100)
    cloud[0, ::7] = torch.nan
    cloud[1, ::5] = -torch.inf
    cloud[1, 50:] = torch.nan
    further = {
        "farthest_point_sample": (100, 0),
        "ball_query": (cloud, 0.1, 8),
        "knn": (cloud, 100),
    }[name]
    for form in (cpu, plain):
        found = getattr(form, name)(cloud, *further)
        assert found.min() >= 0 and found.max() < 100


TYPES = [torch.float32, torch.bfloat16, torch.float16]


def assert_projection_is_the_same(features, seen, upstream):
    bits = cpu.pack_views(seen)
    assert torch.equal(bits, plain.pack_views(seen))
    views, count = seen.shape[2], seen.shape[1]
    pooled, row = cpu.visible_max(features, bits, views)
    expected, expected_row = plain.visible_max(features, bits, views)
    assert pooled.dtype == features.dtype and row.dtype == torch.int16
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(row, expected_row)
    gradient = cpu.visible_max_backward(upstream, row, count)
    assert gradient.dtype == upstream.dtype
    expected = plain.visible_max_backward(upstream, row, count)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0, equal_nan=True)
    return pooled, row


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("batch", "count", "channels", "views"),
    [(1, 1, 1, 1), (2, 31, 16, 2), (2, 32, 255, 31), (3, 33, 257, 32), (2, 200, 300, 12)],
)
@pytest.mark.parametrize("kind", ["signed", "ties"])
def test_projections_are_the_same(dtype, batch, count, channels, views, kind):
    features = points("random", count, batch, channels)
    features = (features.round() if kind == "ties" else features).to(dtype)
    upstream = points("random", views, batch, channels, seed=1).to(dtype)
    assert_projection_is_the_same(features, seen_by(batch, count, views), upstream)


@pytest.mark.parametrize("dtype", TYPES)
def test_projections_of_what_is_not_finite_are_the_same(dtype):
    features = points("random", 100, axes=40)
    features[0, 3:5, :9] = torch.nan
    features[0, 77, 5:20] = -torch.nan
    features[1, :, 4] = -torch.inf
    features[1, ::2, 5] = torch.inf
    features[:, :, 6] = -0.0
    features[:, 50:, 6] = 0.0
    upstream = points("random", 5, axes=40, seed=1)
    upstream[0, 1, 2], upstream[1, 2, 3] = torch.nan, torch.inf
    seen = seen_by(2, 100, 5)
    seen[:, :2] = False
    seen[:, 3, 0] = seen[:, 4, 1] = seen[:, 77, 4] = True
    pooled, row = assert_projection_is_the_same(features.to(dtype), seen, upstream.to(dtype))
    assert pooled[0, 0, 0].isnan() and row[0, 0, 0] == 3  # the first of two
    assert row[1, :, 4].tolist() == [int(view.nonzero()[0]) for view in seen[1].T]
    assert row[0, 2].unique().tolist() == [-1] and not pooled[0, 2].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "channels"), [(1, 1), (4, 5), (5, 64), (6, 33), (7, 256)])
def test_maxima_and_means_over_edges_are_the_same(kind, k, channels):
    values, upstream = points(kind, 30, axes=channels), points("random", 17, axes=channels, seed=1)
    drawn = torch.Generator().manual_seed(2)
    index = torch.randint(30, (2, 17, k), generator=drawn)
    index[:, :5] = index[:, :5, :1]  # one neighbour, repeated
    highest, winner = cpu.neighbour_max(values, index)
    for found, expected in zip((highest, winner), plain.neighbour_max(values, index), strict=True):
        assert torch.equal(found, expected) and found.dtype == expected.dtype
    edges = values[torch.arange(2).view(2, 1, 1), index]  # (B, S, k, C)
    assert torch.equal(highest, edges.amax(dim=2))
    first = index.unsqueeze(3).expand_as(edges).gather(2, edges.max(dim=2, keepdim=True).indices)
    assert torch.equal(winner.long(), first.squeeze(2))
    torch.testing.assert_close(cpu.neighbour_mean(values, index), edges.mean(dim=2))
    torch.testing.assert_close(plain.neighbour_mean(values, index), edges.mean(dim=2))
    for name, source in (("neighbour_max_backward", winner), ("neighbour_mean_backward", index)):
        pair = [getattr(form, name)(upstream, source, 30) for form in (cpu, plain)]
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-6)


def test_edge_operators_pass_gradcheck():
    values = points("random", 9, axes=3).double().requires_grad_()
    index = torch.randint(9, (2, 5, 4), generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: ops.neighbour_max(x, index)[0], values)
    assert torch.autograd.gradcheck(lambda x: ops.neighbour_mean(x, index), values)


def test_gradients_are_those_of_float64():
    seen = seen_by(2, 70, 12)
    features = points("random", 70, axes=33)
    upstream = points("random", 12, axes=33, seed=1)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = features.to(dtype, copy=True).requires_grad_()
        visible_max_pool(leaf, seen).backward(upstream.to(dtype))
        gradients.append(leaf.grad.double())
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def test_more_views_and_rows_than_the_kernels_take():
    features = points("random", 6, axes=4)
    seen = seen_by(2, 6, 70)
    pooled = visible_max_pool(features, seen)
    apart = [visible_max_pool(features, seen[..., view, None]) for view in range(70)]
    assert torch.equal(pooled, torch.cat(apart, dim=1))
    many = points("random", 40_000, 1, 2).requires_grad_()
    visible_max_pool(many, torch.ones(1, 40_000, 1, dtype=torch.bool)).sum().backward()
    assert torch.equal(many.grad.argmax(dim=1), many.argmax(dim=1))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensor_code_asks_the_host_for_nothing(device):
    """Of tensors without content neither a value nor a size that depends on values can be had."""
    with FakeTensorMode():
        cloud = torch.empty(2, 50, 3, device=device)
        features = torch.empty(2, 50, 8, device=device)
        index = plain.knn(cloud, cloud, 4)
        bits = plain.pack_views(torch.empty(2, 50, 5, dtype=torch.bool, device=device))
        assert plain.farthest_point_sample(cloud, 9, 0).shape == (2, 9)
        assert plain.ball_query(cloud, cloud[:, :7], 0.3, 6).shape == (2, 7, 6)
        pooled, row = plain.visible_max(features, bits, 5)
        assert plain.visible_max_backward(pooled, row, 50).shape == features.shape
        highest, winner = plain.neighbour_max(features, index)
        assert plain.neighbour_max_backward(highest, winner, 50).shape == features.shape
        mean = plain.neighbour_mean(features, index)
        assert plain.neighbour_mean_backward(mean, index, 50).shape == features.shape
