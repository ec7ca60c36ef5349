"""Views on the training device or decoded as they are needed: the same batches."""

import time

import numpy as np
import pytest
import torch
from conftest import slow_if

from data import stores
from data.datasets import ShapeSet
from data.storage import open_split
from data.stores import Reader, Resident, Streamed
from data.subsets import Subset
from data.training import TrainingBatches
from data.views import ImageReader, view_reader
from utils.device import free_memory
from utils.errors import ConfigError
from utils.machine import local_cores
from utils.meters import EpochClock
from utils.settings import DataSettings, PointAugmentation, PointDataSettings, ViewAugmentation

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CHANGES = ViewAugmentation(flip=True, scale=(0.9, 1.1), shift=0.1, brightness=0.2)
STILL = PointAugmentation()


@pytest.fixture(scope="module")
def subset(workshop) -> Subset:
    return Subset(open_split("Tiny", "train", workshop.root), np.arange(3, 43, 2))


def view_set(subset, device=CPU, **settings) -> ShapeSet:
    return ShapeSet(subset, {"views"}, DataSettings(name="Tiny", **settings), device)


def same(one: list[dict], other: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name].to(a[name].device)) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("workers", "size"), [(0, None), (0, 16), slow_if(True, 2, 16)])
def test_resident_views_are_the_decoded_ones(subset, workers, size):
    for views in (None, 5):
        resident, decoded = (
            view_set(subset, size=size, workers=workers, views=views, cache_on_device=cache)
            for cache in (True, False)
        )
        assert same(list(resident.evaluation(8)), list(decoded.evaluation(8)))
        draw, again = (TrainingBatches(each, 4, 1, STILL, CHANGES) for each in (resident, decoded))
        before = torch.get_rng_state()
        for epoch in (0, 1, 0):
            one = list(draw(epoch))
            assert len(one) == 5
            assert same(one, list(again(epoch)))
        assert torch.equal(torch.get_rng_state(), before), "drawn from the training's generator"
        assert resident._stores[0].arrays["views"].shape[:2] == (20, 12)


def test_what_was_decoded_is_not_decoded_again(subset, monkeypatch):
    views = view_set(subset, cache_on_device=True)
    first = list(views.evaluation(8))
    monkeypatch.setattr(ImageReader, "read", lambda *_: pytest.fail("decoded again"))
    assert same(first, list(views.evaluation(8)))


def test_decoding_processes_stay_from_epoch_to_epoch(subset):
    views = view_set(subset, workers=2, cache_on_device=False)
    draw = TrainingBatches(views, 4, 0, STILL, ViewAugmentation())

    def processes():
        return {worker.pid for worker in views._stores[0].loader._iterator._workers}

    whole = list(draw(0))
    first = processes()
    next(draw(1))  # an epoch that was left early, as for a picture
    assert same(whole, list(draw(0)))
    assert processes() == first


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_little_is_read_without_other_processes(subset, monkeypatch):
    views = view_reader(subset.split, np.arange(12), None)
    codes = Reader("codes", (512,), np.dtype(np.float16), lambda index: pytest.fail("was read"))

    def workers(readers, wanted=None):
        return Streamed(readers, 20, CPU, wanted).loader.num_workers

    assert workers([views]) == workers([codes]) == workers([views, codes]) == 0
    monkeypatch.setattr(stores, "FEW_IMAGES", 20 * 12)
    assert workers([codes, views]) == local_cores()
    assert workers([codes]) == 0
    monkeypatch.setattr(stores, "FEW_BYTES", 20 * 1024)
    assert workers([codes]) == min(stores.ARRAY_WORKERS, local_cores())
    assert workers([views], 3) == workers([codes], 3) == 3


def test_views_stay_where_they_take_half_of_the_memory_at_most(subset, monkeypatch):
    needed = 20 * 12 * 32 * 32
    for free, store in ((2 * needed, Resident), (2 * needed - 1, Streamed)):
        monkeypatch.setattr(stores, "free_memory", lambda _device, free=free: free)
        assert [type(found) for found in view_set(subset)._stores] == [store]
    monkeypatch.setattr(stores, "free_memory", lambda _device: needed - 1)
    wanted = r"data.cache_on_device=true needs .* views of 20 shapes.* free on cpu"
    with pytest.raises(ConfigError, match=wanted):
        list(view_set(subset, cache_on_device=True).evaluation(8))


def test_free_memory_is_shared_by_the_processes_of_a_machine(monkeypatch):
    alone, cores = free_memory(CPU), local_cores()
    assert 2**20 < alone < 2**46
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 0.15 * alone < free_memory(CPU) < 0.35 * alone
    assert local_cores() == max(1, cores // 4)


def test_the_clock_runs_while_data_is_waited_for_and_not_while_steps_are_taken(subset, monkeypatch):
    read = ImageReader.read

    def slowly(*arguments):
        time.sleep(0.05)
        return read(*arguments)

    monkeypatch.setattr(ImageReader, "read", slowly)
    views = view_set(subset, cache_on_device=False, workers=0)
    batches = TrainingBatches(views, 5, 0, STILL, ViewAugmentation())
    clock, count = EpochClock(lambda: batches.waited), 0
    for _ in batches(0):
        time.sleep(0.05)  # a step
        count += 1
    assert count == 4
    assert 0.2 <= batches.waited < clock.seconds - 0.2
    assert clock.waiting == pytest.approx(100 * batches.waited / clock.seconds, rel=0.1)
    assert EpochClock(lambda: batches.waited).waiting == 0  # of another epoch


def test_what_is_kept_is_waited_for_once(subset):
    kept = TrainingBatches(view_set(subset), 5, 0, STILL, ViewAugmentation())
    list(kept(0))
    waited = kept.waited
    assert waited > 0
    list(kept(1))
    assert kept.waited == waited


@needs_cuda
@pytest.mark.parametrize("workers", [0, 2])
def test_views_on_a_gpu_are_those_on_a_cpu(subset, workers):
    device = torch.device("cuda", 0)
    expected = list(TrainingBatches(view_set(subset, views=5), 4, 1, STILL, ViewAugmentation())(0))
    for cache in (True, False):
        views = view_set(subset, device, workers=workers, cache_on_device=cache, views=5)
        found = list(TrainingBatches(views, 4, 1, STILL, ViewAugmentation())(0))
        assert found[0]["views"].device == device
        assert same(found, expected)


@needs_cuda
@pytest.mark.parametrize("cache", [True, False])
def test_a_step_waits_for_nothing(subset, cache):
    device = torch.device("cuda", 0)
    data = PointDataSettings(name="Tiny", points=64, views=5, cache_on_device=cache)
    fields = {"points", "points@1", "visibility", "parts", "views"}
    moves = PointAugmentation(shift=0.1, dropout=0.5, rotation="any", jitter=0.01)
    batches = TrainingBatches(ShapeSet(subset, fields, data, device), 4, 0, moves, CHANGES)(0)
    next(batches)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
