"""Sampling, neighbours and interpolation against brute force, with ties and degenerate clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.kernels import plain
from models.layers.pointops import (
    _MaxOverRows,
    ball_query,
    farthest_point_sample,
    gather_rows,
    interpolate_three_nn,
    knn,
    max_over_rows,
    sample_centres,
)
from utils.errors import ConfigError


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def lattice(batch: int, count: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Small whole numbers: many equal distances and equal points, all exact in float32."""
    drawn = torch.randint(-2, 3, (batch, count, channels), generator=torch.manual_seed(seed))
    return drawn.float()


def squared(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(N,) float32 squared distances, summed x, y, z."""
    total = np.zeros(len(points), dtype=np.float32)
    for axis in range(points.shape[1]):
        total = total + (points[:, axis] - centre[axis]) ** 2
    return total


def sampled_by_loop(points: np.ndarray, m: int, start: int) -> list[int]:
    chosen = [start]
    while len(chosen) < m:
        to_nearest = np.min([squared(points, points[c]) for c in chosen], axis=0)
        chosen.append(int(to_nearest.argmax()))  # the first of equals
    return chosen


def ball_by_loop(points: np.ndarray, centre: np.ndarray, radius: float, k: int) -> list[int]:
    distance = squared(points, centre)
    inside = [i for i in range(len(points)) if distance[i] <= np.float32(radius**2)]
    inside = inside[:k] or [int(distance.argmin())]
    return inside + inside[:1] * (k - len(inside))


def nearest_by_loop(points: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    distance = squared(points, query)
    return sorted(range(len(points)), key=lambda i: (distance[i], i))[:k]


@pytest.mark.parametrize("make", [cloud, lattice])
@pytest.mark.parametrize("start", [0, 7])
def test_farthest_points_are_those_of_the_naive_loop(make, start):
    points = make(3, 60, 3)
    found = farthest_point_sample(points, 40, start)
    assert found.dtype == torch.int64
    for sample in range(3):
        assert found[sample].tolist() == sampled_by_loop(points[sample].numpy(), 40, start)


def test_farthest_points_nest_and_cover_the_cloud():
    points = cloud(2, 100, 3)
    order = farthest_point_sample(points, 100)
    assert (order.sort(dim=1).values == torch.arange(100)).all()
    assert (farthest_point_sample(points, 30) == order[:, :30]).all()
    # a cloud stored in farthest-point order: a prefix is the sample
    stored = gather_rows(points, order)
    assert (farthest_point_sample(stored, 64) == torch.arange(64)).all()


def test_farthest_points_of_equal_points():
    points = torch.tensor([[[1.0, 2, 3]] * 3 + [[0.0, 0, 0]] * 2])
    assert farthest_point_sample(points, 4).tolist() == [[0, 3, 0, 0]]


@pytest.mark.parametrize("start", [0, 4])
def test_points_near_the_origin_are_left_out_if_asked_to(start):
    """Of 60 points 20 are near the origin, the first among them."""
    points = cloud(2, 60, 3)
    points[:, ::3] *= 0.01
    off = (points.square().sum(dim=2) > 1e-3).nonzero()[:, 1].view(2, -1)  # (2, 40)
    found = farthest_point_sample(points, 45, start, skip_origin=True)
    for row, kept, samples in zip(points, off, found, strict=True):
        rest = torch.cat([row[start : start + 1], row[kept]])
        number = torch.cat([torch.tensor([start]), kept])
        expected = number[sampled_by_loop(rest.numpy(), 41, 0)]
        beyond = 40 if start in kept else 41  # every point once
        assert torch.equal(samples[:beyond], expected[:beyond])
        assert (samples[beyond:] == kept[0]).all()
    assert torch.equal(found[:, :30], sample_centres(points, 30, "off_origin")) or start
    near = torch.full((1, 4, 3), 0.01)
    assert farthest_point_sample(near, 3, skip_origin=True).tolist() == [[0, 0, 0]]
    far = cloud(2, 60, 3) + 5
    usual = farthest_point_sample(far, 45)
    assert torch.equal(usual, farthest_point_sample(far, 45, skip_origin=True))


@pytest.mark.parametrize("make", [cloud, lattice])
@pytest.mark.parametrize("radius", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 8, 80])
def test_balls_are_those_of_the_naive_loop(make, radius, k):
    points, centres = make(3, 80, 3), cloud(3, 20, 3, seed=1)
    centres[:, :5] = points[:, :5]
    found = ball_query(points, centres, radius, k)
    assert found.shape == (3, 20, k)
    for sample in range(3):
        for centre in range(20):
            expected = ball_by_loop(
                points[sample].numpy(), centres[sample, centre].numpy(), radius, k
            )
            assert found[sample, centre].tolist() == expected


def test_balls_are_closed_and_empty_ones_take_the_nearest_point():
    points = torch.tensor([[[3.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]])
    centres = torch.tensor([[[0.0, 0, 0], [9.0, 0, 0], [0.0, 5.0, 0]]])
    assert ball_query(points, centres, 1.0, 3).tolist() == [[[1, 2, 1], [0, 0, 0], [1, 1, 1]]]
    assert ball_query(points, centres + 100, 1.0, 2).shape == (1, 3, 2)


@pytest.mark.parametrize("make", [cloud, lattice])
@pytest.mark.parametrize("k", [1, 20, 50])
def test_nearest_are_those_of_the_naive_loop(make, k):
    points, queries = make(2, 50, 3), make(2, 30, 3, seed=1)
    found = knn(points, queries, k)
    for sample in range(2):
        for query in range(30):
            expected = nearest_by_loop(points[sample].numpy(), queries[sample, query].numpy(), k)
            assert found[sample, query].tolist() == expected


@pytest.mark.parametrize("channels", [2, 3, 4, 64])
def test_nearest_in_any_dimension_break_ties_by_index(channels):
    points, queries = lattice(2, 40, channels), lattice(2, 25, channels, seed=1)
    found = knn(points, queries, 40)
    for sample in range(2):
        for query in range(25):
            expected = nearest_by_loop(points[sample].numpy(), queries[sample, query].numpy(), 40)
            assert found[sample, query].tolist() == expected


def test_nearest_of_a_point_begin_with_its_first_copy():
    points = cloud(1, 30, 3)
    points[0, 20] = points[0, 4]
    found = knn(points, points, 3)
    assert found[0, 20, :2].tolist() == found[0, 4, :2].tolist() == [4, 20]


def test_results_do_not_depend_on_how_many_clouds_are_done_at_once(monkeypatch):
    points, features = cloud(5, 64, 3), cloud(5, 64, 16)
    together = [
        knn(points, points, 9),
        knn(features, features, 9),
        ball_query(points, points, 0.5, 9),
    ]
    monkeypatch.setattr(plain, "CPU_ENTRIES", 2 * 64 * 64)
    apart = [knn(points, points, 9), knn(features, features, 9), ball_query(points, points, 0.5, 9)]
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))


def test_indices_are_the_same_under_autocast():
    points, features = cloud(2, 200, 3), cloud(2, 200, 32)

    def indices() -> list[torch.Tensor]:
        return [
            farthest_point_sample(points, 50),
            ball_query(points, points, 0.3, 16),
            knn(points, points, 12),
            knn(features, features, 12),
        ]

    plain = indices()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = indices()
        carried = interpolate_three_nn(points, points[:, :20], features[:, :20])
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))
    assert torch.equal(carried, interpolate_three_nn(points, points[:, :20], features[:, :20]))


def test_distances_between_features_are_in_full_float32(monkeypatch):
    """Whatever precision a process has chosen for its other matrix products, as on a GPU."""
    seen = []
    product = torch.baddbmm

    def spy(*arguments, **options):
        seen.append(torch.get_float32_matmul_precision())
        return product(*arguments, **options)

    monkeypatch.setattr(torch, "baddbmm", spy)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        knn(cloud(2, 20, 8), cloud(2, 20, 8), 3)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen and set(seen) == {"highest"}


def test_too_few_points_are_refused():
    points = cloud(1, 10, 3)
    with pytest.raises(ConfigError, match="10 points cannot give 11"):
        farthest_point_sample(points, 11)
    with pytest.raises(ConfigError, match="10 points cannot give 12"):
        knn(points, points, 12)


def test_rows_are_gathered_with_their_gradient():
    x = cloud(2, 5, 3).double().requires_grad_()
    index = torch.tensor([[[0, 0], [4, 1]], [[2, 2], [2, 3]]])
    rows = gather_rows(x, index)
    for sample, i, j in np.ndindex(2, 2, 2):
        assert torch.equal(rows[sample, i, j], x[sample, index[sample, i, j]])
    assert torch.autograd.gradcheck(lambda y: gather_rows(y, index), x)
    assert gather_rows(torch.ones(2, 5, 4, dtype=torch.bool), index).dtype == torch.bool


def test_interpolation_is_that_of_the_naive_loop():
    points, known, features = cloud(2, 12, 3), cloud(2, 6, 3, seed=1), cloud(2, 6, 4, seed=2)
    found = interpolate_three_nn(points, known, features)
    for sample, point in np.ndindex(2, 12):
        distance = squared(known[sample].numpy(), points[sample, point].numpy())
        nearest = distance.argsort()[:3]
        weight = 1 / (distance[nearest] + 1e-8)
        expected = (weight / weight.sum()) @ features[sample].numpy()[nearest]
        np.testing.assert_allclose(found[sample, point].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_interpolation_returns_known_features_and_has_a_gradient():
    known, features = cloud(2, 6, 3), cloud(2, 6, 4)
    torch.testing.assert_close(
        interpolate_three_nn(known, known, features), features, rtol=0, atol=1e-5
    )
    # fewer than three known positions: all of them
    ones = interpolate_three_nn(cloud(2, 9, 3), known[:, :2], torch.ones(2, 2, 4))
    torch.testing.assert_close(ones, torch.ones(2, 9, 4))
    points = cloud(2, 9, 3).double()
    assert torch.autograd.gradcheck(
        lambda y: interpolate_three_nn(points, known.double(), y),
        features.double().requires_grad_(),
    )


@pytest.mark.parametrize("count", [1, 31, 300])
@pytest.mark.parametrize("find", [max_over_rows, _MaxOverRows.apply], ids=["cpu", "elsewhere"])
def test_maximum_over_rows_and_its_gradient_are_those_of_max(count, find):
    # few different values: most maxima are attained by several rows
    x = lattice(3, count, 5).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    weight = cloud(3, 5)
    (find(x) * weight).sum().backward()
    (twin.max(dim=1).values * weight).sum().backward()
    assert torch.equal(find(x), twin.max(dim=1).values)
    assert torch.equal(x.grad, twin.grad)
    assert torch.equal(x.grad, first_attaining(twin.detach(), weight))


@pytest.mark.parametrize("shape", [(9, 4), (2, 3, 9, 4)])
def test_maximum_over_rows_takes_any_leading_dimensions(shape):
    x = cloud(*shape)
    assert torch.equal(max_over_rows(x), x.amax(dim=-2))


def first_attaining(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    gradient = torch.zeros_like(x)
    for sample, channel in np.ndindex(x.shape[0], x.shape[2]):
        column = x[sample, :, channel]
        row = int((column == column.max()).nonzero()[0])
        gradient[sample, row, channel] = weight[sample, channel]
    return gradient


def test_neighbours_of_features_that_share_a_large_part_are_exact():
    torch.manual_seed(0)
    features = 10 + 0.1 * torch.randn(2, 512, 64)
    distance = torch.cdist(features.double(), features.double())
    expected = distance.topk(20, dim=2, largest=False).indices.sort(dim=2).values
    assert torch.equal(knn(features, features, 20).sort(dim=2).values, expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: farthest_point_sample(x, 0),
        lambda x: farthest_point_sample(x, 2, start=9),
        lambda x: farthest_point_sample(x, 2, start=-1),
        lambda x: farthest_point_sample(x[..., :2], 2),
        lambda x: ball_query(x, x[:1], 0.5, 2),
        lambda x: ball_query(x.repeat(1, 1, 2), x.repeat(1, 1, 2), 0.5, 2),
        lambda x: ball_query(x, x, 0.5, 0),
        lambda x: knn(x[:1], x, 2),
        lambda x: knn(x[..., :2], x, 2),
        lambda x: knn(x[0], x[0], 2),
    ],
)
def test_what_the_kernels_would_read_beside_the_points_is_refused(call):
    with pytest.raises(ValueError, match="found"):
        call(cloud(2, 9, 3))


def test_a_ball_among_no_points_is_refused():
    with pytest.raises(ConfigError, match="cloud of 0 points"):
        ball_query(torch.empty(2, 0, 3), cloud(2, 9, 3), 0.5, 2)
