"""Views on the training device or decoded as they are needed: the same batches."""

import time

import numpy as np
import pytest
import torch
from conftest import slow_if

from data import views as view_store
from data.datasets import PointSet, Subset, ViewSet
from data.storage import open_split
from data.views import DecodedViews, ResidentViews, ViewReader, fits, resident_bytes
from utils.device import free_memory
from utils.errors import ConfigError
from utils.machine import local_cores
from utils.meters import TimedBatches
from utils.settings import PointAugmentation, ViewAugmentation

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CHANGES = ViewAugmentation(flip=True, scale=(0.9, 1.1), shift=0.1, brightness=0.2)


@pytest.fixture(scope="module")
def subset(workshop) -> Subset:
    return Subset(open_split("Tiny", "train", workshop.root), np.arange(3, 43, 2))


def same(one: list[dict], other: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name].to(a[name].device)) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("workers", [0, slow_if(True, 2)])
def test_resident_views_are_the_decoded_ones(subset, workers, size):
    resident = ViewSet(subset, CPU, size, workers, resident=True)
    decoded = ViewSet(subset, CPU, size, workers, resident=False)
    assert same(list(resident.evaluation(8)), list(decoded.evaluation(8)))
    for views in (None, 5):
        draw, again = (each.training(4, CHANGES, 1, views) for each in (resident, decoded))
        before = torch.get_rng_state()
        for epoch in (0, 1, 0):
            one = list(draw(epoch))
            assert len(one) == 5
            assert same(one, list(again(epoch)))
        assert torch.equal(torch.get_rng_state(), before), "drawn from the training's generator"
    assert resident._store.arrays["views"].shape[:2] == (20, 12)


def test_what_was_decoded_is_not_decoded_again(subset, monkeypatch):
    views = ViewSet(subset, CPU, resident=True)
    first = list(views.evaluation(8))
    monkeypatch.setattr(ViewReader, "__getitem__", lambda *_: pytest.fail("decoded again"))
    assert same(first, list(views.evaluation(8)))


def test_decoding_processes_stay_from_epoch_to_epoch(subset):
    views = ViewSet(subset, CPU, workers=2, resident=False)
    draw = views.training(4, ViewAugmentation(), 0)
    whole = list(draw(0))
    processes = {worker.pid for worker in views._store.loader._iterator._workers}
    next(draw(1))  # an epoch that was left early, as for a picture
    assert same(whole, list(draw(0)))
    assert {worker.pid for worker in views._store.loader._iterator._workers} == processes


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_few_images_are_decoded_without_other_processes(subset, monkeypatch):
    reader = ViewReader(subset.split, None)
    assert DecodedViews(reader, subset.members, None, CPU).loader.num_workers == 0
    monkeypatch.setattr(view_store, "FEW_IMAGES", 20 * 12)
    assert DecodedViews(reader, subset.members, None, CPU).loader.num_workers == local_cores()
    assert DecodedViews(reader, subset.members, 3, CPU).loader.num_workers == 3


def test_views_stay_where_they_take_half_of_the_memory_at_most(subset, monkeypatch):
    reader = ViewReader(subset.split, None)
    needed = 20 * 12 * 32 * 32
    assert resident_bytes(reader, 20) == needed
    for free, stay in ((2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr(view_store, "free_memory", lambda _device, free=free: free)
        assert fits(reader, 20, CPU) == stay
        store = ResidentViews if stay else DecodedViews
        assert isinstance(ViewSet(subset, CPU)._store, store)
    monkeypatch.setattr(view_store, "free_memory", lambda _device: needed - 1)
    wanted = r"data.cache_on_device=true needs .* 20 shapes .* free on cpu"
    with pytest.raises(ConfigError, match=wanted):
        list(ViewSet(subset, CPU, resident=True).evaluation(8))


def test_free_memory_is_shared_by_the_processes_of_a_machine(monkeypatch):
    alone, cores = free_memory(CPU), local_cores()
    assert 2**20 < alone < 2**46
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 0.15 * alone < free_memory(CPU) < 0.35 * alone
    assert local_cores() == max(1, cores // 4)


def test_the_clock_runs_while_a_batch_is_waited_for():
    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    timed = TimedBatches(slow())
    found = []
    for number in timed:
        time.sleep(0.02)
        found.append(number)
    assert found == [0, 1, 2]
    assert 0.15 <= timed.waited < timed.seconds
    assert 30 < timed.waiting < 95


@needs_cuda
@pytest.mark.parametrize("workers", [0, 2])
def test_views_on_a_gpu_are_those_on_a_cpu(subset, workers):
    device = torch.device("cuda", 0)
    expected = list(ViewSet(subset, CPU, resident=True).training(4, ViewAugmentation(), 1, 5)(0))
    for resident in (True, False):
        views = ViewSet(subset, device, None, workers, resident)
        found = list(views.training(4, ViewAugmentation(), 1, 5)(0))
        assert found[0]["views"].device == device
        assert same(found, expected)


@needs_cuda
def test_an_epoch_moves_its_indices_once(subset):
    device = torch.device("cuda", 0)
    clouds = PointSet(subset, 64, device).training(4, PointAugmentation(shift=0.1, dropout=0.5), 0)
    views = ViewSet(subset, device, resident=True).training(4, CHANGES, 0, 5)
    for batches in (clouds(0), views(0)):
        next(batches)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            next(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
