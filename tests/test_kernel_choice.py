"""Around the kernels: threads, processes, the choice of a form, operators for the compiler."""

from __future__ import annotations

import functools
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import slow_if
from helpers import points, seen_by

from models.kernels import choice, cpu, ops, plain, threads
from models.kernels.compiled import compiled
from models.layers.pointops import knn
from models.terms.alignment import visible_max_pool
from utils.errors import ConfigError


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
            ops.match(cloud, cloud.flip(1) + 0.1),
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
    right = bool((cpu.knn(cloud, cloud, 1).squeeze(2) == torch.arange(300)).all())
    answers.put((right, threading.active_count() > 1))


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
    assert answers.get() == (True, True)


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


CLAIMS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize(
    ("dtype", "claims"),
    [
        (torch.float32, CLAIMS),
        (torch.float64, CLAIMS),
        slow_if(True, torch.float32, "test_aot_dispatch_dynamic"),
    ],
    ids=["float32", "float64", "traced ahead of time"],
)
def test_the_operators_are_what_they_claim(dtype, claims):
    check = functools.partial(torch.library.opcheck, test_utils=claims)
    cloud = points("random", 40)
    features = points("random", 40, axes=8).to(dtype).requires_grad_()
    bits = ops.pack_views(seen_by(2, 40, 3))
    row = ops.visible_max(features, bits, 3)[1]
    check(ops.farthest_point_sample, (cloud, 9, 0))
    check(ops.ball_query, (cloud, cloud[:, :7], 0.5, 4))
    check(ops.knn, (cloud, cloud[:, :7], 4))
    check(ops.smallest, (cloud, 2))
    check(ops.match, (cloud, cloud + 1))
    check(ops.pack_views, (seen_by(2, 40, 3),))
    check(ops.visible_max, (features, bits, 3))
    upstream = torch.ones(2, 3, 8, dtype=dtype)
    check(ops.visible_max_backward, (upstream, row, 40))
    index = torch.arange(12).view(2, 3, 2)
    winner = ops.neighbour_max(features, index)[1]
    check(ops.neighbour_max, (features, index))
    check(ops.neighbour_max_backward, (upstream, winner, 40))
    check(ops.neighbour_mean, (features, index))
    check(ops.neighbour_mean_backward, (upstream, index, 40))


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
