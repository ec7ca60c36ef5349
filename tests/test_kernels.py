"""The forms of the kernels agree to the bit, whatever the sizes, ties, types and threads."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models.kernels import choice, cpu, ops, plain, threads
from models.kernels.compiled import compiled
from models.pointops import knn
from models.projection import visible_max_pool
from utils.errors import ConfigError


def points(kind: str, count: int, batch: int = 2, axes: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "equal":
        return torch.full((batch, count, axes), 0.3)
    if kind == "lattice":  # equal points and equal distances
        return torch.randint(-2, 3, (batch, count, axes), generator=generator).float()
    return torch.randn(batch, count, axes, generator=generator)


KINDS = ["random", "lattice", "equal"]
COUNTS = [1, 2, 63, 64, 65, 300]  # around the blocks of the loops


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", COUNTS)
def test_farthest_points_are_the_same(kind, count):
    cloud = points(kind, count)
    for start in (0, count - 1):
        found = cpu.farthest_point_sample(cloud, count, start)
        assert torch.equal(found, plain.farthest_point_sample(cloud, count, start))


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


def seen_by(batch: int, count: int, views: int) -> torch.Tensor:
    seen = torch.rand(batch, count, views, generator=torch.Generator().manual_seed(views)) < 0.4
    seen[0, :, views // 2] = False  # a view that sees nothing
    return seen


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


def test_any_number_of_threads_gives_the_same(monkeypatch):
    monkeypatch.setattr(threads, "SHARE_COST", 1)
    cloud, features = points("random", 100, batch=7), points("random", 50, 7, 300)
    seen = seen_by(7, 50, 12)

    def everything() -> list[torch.Tensor]:
        pooled, row = ops.visible_max(features, ops.pack_views(seen), 12)
        return [
            ops.farthest_point_sample(cloud, 60, 0),
            ops.ball_query(cloud, cloud, 0.4, 9),
            ops.knn(cloud, cloud, 9),
            ops.smallest(cloud, 2),
            pooled,
            ops.visible_max_backward(pooled, row, 50),
        ]

    alone = everything()
    torch.set_num_threads(3)
    together = everything()
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    with ThreadPoolExecutor(4) as callers:  # and from several threads at once
        for results in callers.map(lambda _: everything(), range(12)):
            assert all(torch.equal(one, other) for one, other in zip(alone, results, strict=True))


def test_the_shares_cover_every_item_once(monkeypatch):
    monkeypatch.setattr(threads, "SHARE_COST", 1000)
    torch.set_num_threads(3)
    for items, cost in [(1, 1), (7, 10_000), (1000, 1), (1001, 10), (50, 300)]:
        done = []
        threads.in_shares(lambda begin, end: done.append((begin, end)), items, cost)  # noqa: B023
        assert sorted(item for share in done for item in range(*share)) == list(range(items))
        assert len(done) <= max(items * cost // 1000, 1) + 1
    with pytest.raises(ZeroDivisionError):
        threads.in_shares(lambda begin, end: 1 // begin, 50, 1000)


def nearest_in_another_process(answers) -> None:
    torch.set_num_threads(2)
    cloud = points("random", 300, batch=8)
    answers.put(bool((cpu.knn(cloud, cloud, 1).squeeze(2) == torch.arange(300)).all()))


def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(threads, "SHARE_COST", 1)
    torch.set_num_threads(2)
    cloud = points("random", 300, batch=8)
    cpu.knn(cloud, cloud, 1)  # the threads of this process run
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=nearest_in_another_process, args=(answers,))
    child.start()
    child.join(60)
    hangs = child.is_alive()
    child.kill()
    assert not hangs
    assert answers.get()


def test_what_cannot_be_kept_on_disk_is_compiled_all_the_same():
    names = {}
    exec("def double(x):\n    return 2 * x", names)  # numba finds no file to keep it beside
    assert compiled(names["double"])(3) == 6


def test_the_form_is_chosen_by_device_and_environment(monkeypatch):
    device = torch.device("cpu")
    assert choice.kernels_name(device) == "numba"
    assert choice.kernels_for(device) is cpu
    assert choice.kernels_for(torch.device("meta")) is plain
    monkeypatch.setenv("POINT_KERNELS", "plain")
    assert choice.kernels_name(device) == "plain"
    assert choice.kernels_for(device) is plain
    monkeypatch.setenv("POINT_KERNELS", "fast")
    with pytest.raises(ConfigError, match="POINT_KERNELS=fast"):
        choice.kernels_for(device)


def test_without_a_compiler_tensor_code_serves(monkeypatch):
    monkeypatch.setitem(choice.MODULES, "numba", "no_such_module")
    choice._chosen.cache_clear()
    try:
        with pytest.warns(UserWarning, match="plain tensor code, which is slower"):
            assert choice.kernels_name(torch.device("cpu")) == "plain"
        assert choice.kernels_for(torch.device("cpu")) is plain
    finally:
        choice._chosen.cache_clear()


def test_no_compiler_is_imported_before_it_is_needed():
    line = "import models.students, sys; print({'numba', 'triton'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operators_are_what_they_claim(dtype):
    cloud = points("random", 40)
    features = points("random", 40, axes=8).to(dtype).requires_grad_()
    bits = ops.pack_views(seen_by(2, 40, 3))
    row = ops.visible_max(features, bits, 3)[1]
    torch.library.opcheck(ops.farthest_point_sample, (cloud, 9, 0))
    torch.library.opcheck(ops.ball_query, (cloud, cloud[:, :7], 0.5, 4))
    torch.library.opcheck(ops.knn, (cloud, cloud[:, :7], 4))
    torch.library.opcheck(ops.smallest, (cloud, 2))
    torch.library.opcheck(ops.pack_views, (seen_by(2, 40, 3),))
    torch.library.opcheck(ops.visible_max, (features, bits, 3))
    torch.library.opcheck(ops.visible_max_backward, (torch.ones(2, 3, 8, dtype=dtype), row, 40))


def test_a_graph_is_compiled_without_a_break():
    def both(cloud, features, seen):
        near = knn(cloud, cloud, 4), knn(features, features, 5)
        return visible_max_pool(features.relu(), seen), *near

    cloud, seen = points("random", 40), seen_by(2, 40, 3)
    features = points("random", 40, axes=8).requires_grad_()
    traced = torch.compile(both, backend="eager", fullgraph=True)(cloud, features, seen)
    direct = both(cloud, features, seen)
    assert all(torch.equal(one, other) for one, other in zip(traced, direct, strict=True))
    gradients = [torch.autograd.grad(x[0].sum(), features)[0] for x in (traced, direct)]
    assert torch.equal(*gradients)


def test_autocast_leaves_the_type_of_embeddings():
    seen = seen_by(2, 40, 3)
    features = points("random", 40, axes=8).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = visible_max_pool(features, seen)
    pooled.float().sum().backward()
    assert pooled.dtype == features.grad.dtype == torch.bfloat16
    assert torch.equal(pooled, visible_max_pool(features, seen))
