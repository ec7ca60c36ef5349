"""Batches of any fields, merged by shape: what they hold, and that it does not matter where it is
kept."""

import itertools
import shutil

import h5py
import numpy as np
import pytest
import torch
from conftest import slow_if
from torch.fx.experimental.proxy_tensor import make_fx

from data import stores
from data.bank import Bank
from data.datasets import ShapeSet
from data.rendering.cameras import unpack_visibility
from data.storage import PreparedSplit, open_split
from data.stores import FILL_BYTES, Resident, Streamed
from data.subsets import Subset
from data.training import TrainingBatches
from utils.errors import ConfigError, DataError
from utils.fields import Field
from utils.settings import (
    DataSettings,
    PointAugmentation,
    PointDataSettings,
    TargetSettings,
    ViewAugmentation,
)

CPU = torch.device("cpu")
MOVES = PointAugmentation(scale=(0.5, 2.0), shift=0.2, dropout=0.5, rotation="z", jitter=0.01)
CHANGES = ViewAugmentation(flip=True, scale=(0.9, 1.1), shift=0.1, brightness=0.2, contrast=0.2)
STILL = (PointAugmentation(), ViewAugmentation())
TAUGHT = {"view_codes", "codes", "view_logits", "logits"}
EVERYTHING = {"points", "visibility", "parts", "views", "part_images", *TAUGHT}
EVERYTHING |= {"points@1", "visibility@1", "parts@1", "views@1", "part_images@2"}
FEWER = {"views": 5, "teach_views": 7, "teach_shuffle": "all"}


@pytest.fixture(scope="module")
def subset(workshop) -> Subset:
    return Subset(open_split("Tiny", "train", workshop.root), np.arange(3, 43, 2))


@pytest.fixture(scope="module")
def make(subset, workshop):
    """A set of these shapes and fields; settings go where they belong."""

    def build(*fields, of=subset, seed=0, **settings) -> ShapeSet:
        taught = {key: settings.pop(f"teach_{key}", None) for key in ("views", "shuffle")}
        taught = TargetSettings(
            bank=str(workshop.bank), **{key: value for key, value in taught.items() if value}
        )
        data = PointDataSettings(name="Tiny", **{"points": 64, **settings})
        return ShapeSet(of, fields, data, CPU, taught, seed)

    return build


def same(one: list[dict], other: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_points_views_and_targets_come_in_one_batch(make, subset, workshop):
    shapes = make("points", "visibility", "parts", "views", "part_images", "codes", "view_logits")
    batch = next(itertools.islice(shapes.evaluation(6), 1, None))
    split, bank = subset.split, Bank(workshop.bank)
    index = subset.members[6:12]
    assert batch["index"].tolist() == index.tolist() and len(shapes) == 20
    assert batch["label"].tolist() == split.labels[index].tolist()
    np.testing.assert_array_equal(batch["points"], split.points()[index, :64])
    seen = unpack_visibility(split.visibility()[index, :64], 12)
    np.testing.assert_array_equal(batch["visibility"], seen)
    np.testing.assert_array_equal(batch["parts"], split.global_parts()[index, :64])
    np.testing.assert_array_equal(batch["views"][2, :, 0], split.views(index[2]))
    labels = split.part_numbers.to_global(
        split.part_images(index[2])[None], split.labels[index[2:3]]
    )
    np.testing.assert_array_equal(batch["part_images"][2], labels[0])
    rows = bank.locate([split.ids[place] for place in index])
    np.testing.assert_array_equal(batch["codes"], np.float32(bank.read("codes", rows)))
    np.testing.assert_array_equal(batch["view_logits"], np.float32(bank.read("view_logits", rows)))
    drawn = next(TrainingBatches(shapes, 4, 0, *STILL)(0))
    kinds = {name: value.dtype for name, value in drawn.items()}
    integers = dict.fromkeys(["index", "label", "parts", "part_images"], torch.int64)
    assert kinds == integers | {"visibility": torch.bool, "views": torch.uint8} | dict.fromkeys(
        ["points", "codes", "view_logits"], torch.float32
    )
    assert {name: tuple(value.shape[1:]) for name, value in drawn.items()} == {
        name: field.shape for name, field in shapes.fields.items()
    }


def test_fields_and_cameras_tell_what_training_gets(make, subset):
    shapes = make("points@1", "visibility", "views", "view_codes", "logits", teach_views=4, views=3)
    assert shapes.fields == {
        "index": Field(()),
        "label": Field(()),
        "points@1": Field((64, 3)),
        "visibility": Field((64, 3)),
        "views": Field((3, 1, 32, 32)),
        "view_codes": Field((3, 512), signed=False),
        "logits": Field((16,)),
    }
    assert shapes.bank.provenance["data_name"] == "Tiny"
    chosen, split = [0, 3, 6, 9], subset.split
    np.testing.assert_array_equal(shapes.cameras["intrinsics"], split.intrinsics[chosen])
    np.testing.assert_array_equal(shapes.cameras["extrinsics"], split.extrinsics[chosen])
    assert shapes.cameras["image_size"] == 32
    batch = next(TrainingBatches(shapes, 4, 0, MOVES, CHANGES)(0))
    assert {name: tuple(value.shape[1:]) for name, value in batch.items()} == {
        name: field.shape for name, field in shapes.fields.items()
    }
    plain = ShapeSet(subset, ["label"], DataSettings(name="Tiny", views=99), CPU)
    assert plain.bank is None and set(plain.fields) == {"index", "label"}
    assert [b["index"].tolist() for b in plain.evaluation(20)] == [subset.members.tolist()]


@pytest.mark.parametrize(("workers", "changes"), [(0, {}), (0, FEWER), slow_if(True, 2, FEWER)])
def test_streamed_batches_are_the_resident_ones(make, workers, changes):
    kept = make(*EVERYTHING, cache_on_device=True, workers=workers, **changes)
    read = make(*EVERYTHING, cache_on_device=False, workers=workers, **changes)
    assert [type(store) for store in kept._stores] == [Resident, Resident]
    assert [type(store) for store in read._stores] == [Streamed]
    assert read._stores[0].loader.num_workers == workers
    assert same(list(kept.evaluation(8)), list(read.evaluation(8)))
    before = torch.get_rng_state()
    one, other = (TrainingBatches(each, 4, 1, MOVES, CHANGES) for each in (kept, read))
    for epoch in (0, 1, 0):
        found = list(one(epoch))
        assert len(found) == 5 and EVERYTHING | {"index", "label"} == found[0].keys()
        assert same(found, list(other(epoch)))
    assert torch.equal(torch.get_rng_state(), before), "drawn from the training's generator"


def test_what_fits_stays_and_the_rest_is_streamed(make, monkeypatch):
    sizes = {"points": 64 * 12, "visibility": 64 * 2, "view_codes": 12 * 512 * 2}
    everything = [*sizes, "views"]
    views = 12 * 32 * 32
    small = sizes["points"] + sizes["visibility"]
    for room, kept in (
        (small, [{"visibility", "points"}]),
        (small - 1, [{"visibility"}]),
        (small + sizes["view_codes"], [set(sizes)]),
        (small + sizes["view_codes"] + views, [set(sizes), {"views"}]),
        (small + sizes["view_codes"] + views - 1, [set(sizes)]),  # all that is kept counts
    ):
        # each decision is made with what is free then
        taken = [0]

        def free(_device, room=room, taken=taken):
            return 2 * 20 * room - taken[0]

        monkeypatch.setattr(stores, "free_memory", free)
        shapes = make(*everything)
        taken[0] = sum(store.nbytes for store in shapes._kept)
        found = [set(store.arrays) for store in shapes._stores if isinstance(store, Resident)]
        assert found == kept
        assert (len(shapes._stores) > len(kept)) == (set().union(*kept) != set(everything))
        assert taken[0] == 20 * sum(size for name, size in sizes.items() if name in kept[0])
    monkeypatch.setattr(stores, "free_memory", lambda _device: 20 * small - 1)
    with pytest.raises(ConfigError, match="cache_on_device=true needs .* visibility of 20 shapes"):
        make("points", "visibility", cache_on_device=True)


def test_kept_arrays_are_read_in_bulk(make, monkeypatch):
    calls = []

    def points(split, rows=None, count=None, read=PreparedSplit.points):
        calls.append(len(rows))
        return read(split, rows, count)

    monkeypatch.setattr(PreparedSplit, "points", points)
    plain = list(make("points").evaluation(20))
    assert calls == [20]
    monkeypatch.setattr(stores, "FILL_BYTES", 7 * 64 * 12)
    assert same(list(make("points").evaluation(20)), plain)
    assert calls == [20, 7, 7, 6] and FILL_BYTES > 2**20


def test_rows_are_read_in_any_order(subset):
    split = subset.split
    for rows in ([5, 3, 3, 4], [40, 2], [7], list(range(48))):
        np.testing.assert_array_equal(split.points(np.array(rows), 9), split.points()[rows, :9])
        np.testing.assert_array_equal(split.parts(np.array(rows)), split.parts()[rows])


def test_copies_are_augmented_each_in_its_own_way(make):
    names = [
        f"{name}{copy}"
        for name in ("points", "visibility", "parts", "views")
        for copy in ("", "@1")
    ]
    draw, alone = (
        TrainingBatches(make(*n), 4, 7, MOVES, CHANGES) for n in (names, ["points", "views"])
    )
    plain = make("points", "visibility", "views")
    for batch, single in zip(draw(2), alone(2), strict=True):
        assert torch.equal(batch["points"], single["points"])
        assert torch.equal(batch["views"], single["views"])
        original = plain.take(batch["index"])
        for one, other in (("points", "points@1"), ("views", "views@1")):
            assert (batch[one] - batch[other]).flatten(1).abs().amax(dim=1).min() > 1e-3
        for copy in ("", "@1"):  # what fell out took the row of the first point in its own copy
            seen = batch[f"visibility{copy}"]
            fell = (seen != original["visibility"]).any(dim=2)
            assert fell.any()
            first = seen[:, :1].expand_as(seen)
            assert torch.equal(seen[fell], first[fell])
        assert not torch.equal(batch["visibility"], batch["visibility@1"])
    later = next(make("points@1", "views@1").evaluation(5))
    original = next(plain.evaluation(5))
    assert torch.equal(later["points@1"], original["points"])
    assert torch.equal(later["views@1"], original["views"])


@pytest.mark.parametrize("cache", [True, False])
def test_a_row_is_one_view_in_all_fields(make, subset, workshop, cache):
    names = ("visibility", "views", "part_images", "view_codes", "views@1")
    shapes = make(*names, teach_views=6, views=4, cache_on_device=cache)
    split, chosen = subset.split, np.arange(6) * 2
    codes = Bank(workshop.bank)
    used = set()
    for batch in TrainingBatches(shapes, 4, 3, *STILL)(1):
        for row, index in enumerate(batch["index"].tolist()):
            own = np.float32(codes.read("view_codes", codes.locate([split.ids[index]]))[0])
            match = (own[:, None] == batch["view_codes"][row].numpy()).all(axis=2)  # (12, 4)
            views = match.argmax(axis=0)
            assert match.sum() == 4 and set(views) <= set(chosen) and len(set(views)) == 4
            np.testing.assert_array_equal(batch["views"][row, :, 0], split.views(index)[views])
            np.testing.assert_array_equal(batch["views@1"][row], batch["views"][row])
            seen = unpack_visibility(split.visibility()[index, :64], 12)
            np.testing.assert_array_equal(batch["visibility"][row], seen[:, views])
            parts = split.part_numbers.to_global(
                split.part_images(index, views)[None], split.labels[[index]]
            )
            np.testing.assert_array_equal(batch["part_images"][row], parts[0])
            used |= {tuple(views)}
    assert len(used) > 10
    whole = next(shapes.evaluation(3))  # the same six in everything
    np.testing.assert_array_equal(
        whole["views"][1, :, 0], split.views(whole["index"][1].item())[chosen]
    )
    assert whole["view_codes"].shape == (3, 6, 512) and whole["visibility"].shape == (3, 64, 6)


def test_fields_that_nothing_provides_are_refused(make, subset, tmp_path):
    data = PointDataSettings(name="Tiny", points=64)
    with pytest.raises(
        ConfigError,
        match="logitz.*gives index, label, points.*bank .*h5 codes, logits.*you mean 'logits'",
    ):
        make("points", "logitz")
    with pytest.raises(ConfigError, match=r"codes .*targets.bank=FILE of export_teacher.py.*basel"):
        ShapeSet(subset, ["codes"], data, CPU, TargetSettings())
    with pytest.raises(ConfigError, match=r"pointz .*gives index, label, points"):
        ShapeSet(subset, ["pointz"], data, CPU)
    with pytest.raises(ConfigError, match=r"codes@1 was asked for.*points, visibility"):
        make("codes", "codes@1")
    with pytest.raises(ConfigError, match="513 points asked for, and Tiny holds 512"):
        make("parts", points=513)
    assert make("views", points=513).fields["views"].shape == (12, 1, 32, 32)
    with pytest.raises(ConfigError, match="data.views=5, and the set has 4 views"):
        make("view_codes", views=5, teach_views=4)
    assert make("codes", views=99).fields["codes"] == Field((512,), signed=False)
    with pytest.raises(ConfigError, match=r"saturation=0.2.*Tiny are grey"):
        TrainingBatches(make("views"), 4, 0, PointAugmentation(), ViewAugmentation(saturation=0.2))
    path = tmp_path / "train.h5"
    shutil.copy(subset.split.path, path)
    with h5py.File(path, "r+") as file:
        file.attrs["part_names"] = "{}"
        del file["part_images"], file["part_offsets"]
    bare = Subset(PreparedSplit(path), np.arange(4))
    for name, message in (("parts", "no part labels"), ("part_images", "no label images")):
        with pytest.raises(DataError, match=message):
            ShapeSet(bare, [name], data, CPU)


@pytest.mark.parametrize("workers", [0, slow_if(True, 1)])
def test_damaged_data_is_named_by_whoever_reads_it(subset, tmp_path, workers):
    path = tmp_path / "train.h5"
    shutil.copy(subset.split.path, path)
    with h5py.File(path, "r+") as file:
        file["points"][7, 5, 1] = np.nan
    damaged = Subset(PreparedSplit(path), np.arange(48))
    message = f"^{path}: {subset.split.ids[7]} has points that are not finite; prepare"
    with pytest.raises(DataError, match=message):
        ShapeSet(damaged, ["points"], PointDataSettings(name="Tiny", points=64), CPU)
    away = PointDataSettings(name="Tiny", points=64, cache_on_device=False, workers=workers)
    batches = ShapeSet(damaged, ["points"], away, CPU).evaluation(4)
    next(batches)
    with pytest.raises(DataError, match=message):
        next(batches)


def test_the_numbers_of_views_are_those_of_the_cameras(make, subset):
    shapes = make("views", "view_index", views=3, teach_views=6)
    assert shapes.fields["view_index"].shape == (3,)
    batch = next(TrainingBatches(shapes, 8, 0, PointAugmentation(), ViewAugmentation())(0))
    stored = shapes.views[batch["view_index"]]  # (8, 3) numbers of the split
    assert not (stored == stored[0]).all()
    for row, shape in enumerate(batch["index"].tolist()):
        found = subset.split.views(shape, stored[row].tolist())
        assert np.array_equal(batch["views"][row, :, 0], found)
    whole = next(shapes.evaluation(2))
    assert whole["view_index"].tolist() == [list(range(6))] * 2


def test_what_cannot_be_is_refused_before_the_first_batch(make, monkeypatch):
    with pytest.raises(ConfigError, match="targets.shuffle=all exchanges what a bank says"):
        make("points", teach_shuffle="all")
    for name in ("points@x", "points@0", "points@-1"):
        with pytest.raises(ConfigError, match="expected points, or points@1"):
            make(name)
    monkeypatch.setattr("data.stores.free_memory", lambda _device: 100)
    with pytest.raises(ConfigError, match="data.cache_on_device=true needs"):
        make("views", cache_on_device=True)


@pytest.mark.parametrize("cache", ["auto", False])
def test_what_is_drawn_follows_from_the_inputs_alone(make, cache):
    """A CUDA graph replays the operations of one step: nothing of its epoch, its shapes or its
    views may be a number among them. Recorded here by PyTorch's tracer."""
    names = ["points", "points@1", "visibility", "views", "view_index", "view_codes"]
    shapes = make(*names, views=3, cache_on_device=cache)
    batches = TrainingBatches(shapes, 4, 7, MOVES, CHANGES)
    recorded = make_fx(lambda inputs: batches.draw(inputs))(next(batches.inputs(0)))
    for epoch in (1, 2):
        for inputs, expected in zip(batches.inputs(epoch), batches(epoch), strict=True):
            assert same([recorded(inputs)], [expected])
