"""The targets of a student: the views, the visibility, what the teacher says."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import normalised
from data.bank import Bank
from data.datasets import ShapeSet
from data.rendering.cameras import unpack_visibility
from data.storage import PreparedSplit, open_split
from data.subsets import Subset
from data.targets import choose_views, exchange, visibility_reader
from utils.errors import ConfigError, DataError
from utils.settings import PointDataSettings, TargetSettings

CPU = torch.device("cpu")
POINTS = 64


@pytest.fixture(scope="module")
def split(workshop):
    return open_split("Tiny", "train", workshop.root)


def teach(split, workshop, *fields, seed=3, **settings):
    """The batch of all shapes."""
    targets = TargetSettings(bank=str(workshop.bank), **settings)
    data = PointDataSettings(name="Tiny", points=POINTS)
    fields = fields or ("visibility", "view_codes", "codes", "logits")
    shapes = ShapeSet(Subset(split, np.arange(len(split))), fields, data, CPU, targets, seed)
    return {name: array.numpy() for name, array in next(shapes.evaluation(len(split))).items()}


def test_stored_visibility_and_codes_are_the_default(split, workshop):
    batch, bank = teach(split, workshop), Bank(workshop.bank)
    stored = unpack_visibility(split.visibility()[:, :POINTS], split.num_views)
    assert np.array_equal(batch["visibility"], stored)
    rows = bank.locate(split.ids)
    for name in ("view_codes", "codes", "logits"):
        assert np.array_equal(batch[name], bank.read(name, rows).astype(np.float32))


def test_only_what_is_asked_for_is_read(split, workshop, monkeypatch):
    assert teach(split, workshop, "visibility").keys() == {"index", "label", "visibility"}
    monkeypatch.setattr(Bank, "__init__", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(PreparedSplit, "visibility", lambda *_: pytest.fail("read"))
    teach(split, workshop, "points")
    visibility_reader(split, POINTS, np.arange(12), "stored", 0)  # not before it is needed


def test_fewer_views_keep_rows_and_codes_together(split, workshop):
    everything, four = teach(split, workshop), teach(split, workshop, views=4)
    chosen = [0, 3, 6, 9]
    assert np.array_equal(four["visibility"], everything["visibility"][..., chosen])
    assert np.array_equal(four["view_codes"], everything["view_codes"][:, chosen])
    assert np.array_equal(four["codes"], everything["codes"])


@pytest.mark.parametrize("count", [1, 5, 8, 12])
def test_chosen_views_are_distinct_and_begin_with_the_first(count):
    views = choose_views(12, count)
    assert len(set(views)) == count and views[0] == 0 and views.max() < 12
    assert np.array_equal(choose_views(12, None), np.arange(12))
    with pytest.raises(ConfigError, match="targets.views=13, and the set has 12"):
        choose_views(12, 13)


def test_random_visibility_keeps_the_counts_and_nothing_else(split, workshop):
    def draw(seed=3):
        return teach(split, workshop, "visibility", visibility="random", seed=seed)["visibility"]

    stored, drawn = teach(split, workshop, "visibility")["visibility"], draw()
    assert np.array_equal(drawn.sum(axis=1), stored.sum(axis=1))
    agreement = (drawn == stored).mean()
    chance = np.mean(stored.mean(axis=1) ** 2 + (1 - stored.mean(axis=1)) ** 2)
    assert abs(agreement - chance) < 0.03
    assert np.array_equal(draw(), drawn)
    assert not np.array_equal(draw(seed=4), drawn)


def test_all_points_or_those_that_are_not_hidden(split, workshop):
    assert teach(split, workshop, "visibility", visibility="all")["visibility"].all()
    reader = visibility_reader(split, split.num_points, choose_views(12, 4), "hpr", 0)
    found = unpack_visibility(reader.read(np.arange(len(split))), 4)
    stored = unpack_visibility(split.visibility(), split.num_views)[..., [0, 3, 6, 9]]
    assert 0.75 < (found == stored).mean() < 1.0
    again = pickle.loads(pickle.dumps(reader))  # as worker processes may get it
    assert np.array_equal(again.read(np.array([3])), reader.read(np.array([3])))


@pytest.mark.parametrize("shuffle", ["all", "class"])
def test_shuffled_rows_are_those_of_other_shapes(split, workshop, shuffle):
    own, shuffled = teach(split, workshop), teach(split, workshop, shuffle=shuffle)
    order = exchange(split, shuffle == "class", seed=3)
    for name in ("view_codes", "codes", "logits"):
        assert np.array_equal(shuffled[name], own[name][order])
    assert np.array_equal(shuffled["visibility"], own["visibility"])
    same_class = split.labels[order] == split.labels
    assert same_class.all() if shuffle == "class" else same_class.mean() < 0.3


def made_of(*counts):
    """A stand-in for a split: so many shapes of each class, mixed."""
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
    names = [f"class_{place}" for place in range(len(counts))]
    return SimpleNamespace(labels=labels, class_names=names, name="Set", split="train")


def test_the_draw_of_the_exchange_is_that_of_the_tables():
    cycle = np.random.default_rng([5, 0xC0DE]).permutation(7)
    expected = dict(zip(cycle.tolist(), np.roll(cycle, 1).tolist(), strict=True))
    assert exchange(made_of(7), False, 5).tolist() == [expected[place] for place in range(7)]


@pytest.mark.parametrize("counts", [(2,), (3,), (50,), (2, 3, 40, 2), (0, 5, 0, 4)])
@pytest.mark.parametrize("within", [False, True])
def test_nothing_is_left_in_its_place(counts, within):
    split = made_of(*counts)
    others = exchange(split, within, seed=1)
    assert sorted(others) == list(range(sum(counts)))
    assert (others != np.arange(sum(counts))).all()
    assert not within or np.array_equal(split.labels[others], split.labels)
    if sum(counts) > 5:
        assert not np.array_equal(others, exchange(split, within, seed=2))


def test_a_shape_that_is_alone_is_an_error():
    with pytest.raises(DataError, match="targets.shuffle=class: class class_1 of Set has a single"):
        exchange(made_of(3, 1, 2), True, 0)
    with pytest.raises(DataError, match="targets.shuffle=all: Set has a single shape"):
        exchange(made_of(1), False, 0)


def scaled(split, workshop, fields, *, places=None, **settings):
    """The shapes at these places of a split, with normalised codes."""
    targets = TargetSettings(bank=str(workshop.bank), normalise="standard", **settings)
    data, places = PointDataSettings(name="Tiny", points=POINTS), places or range(len(split))
    subset = Subset(split, np.array(places))
    return ShapeSet(subset, fields, data, CPU, targets, 3)


@pytest.mark.parametrize("views", [None, 4])
def test_normalised_codes_have_one_size_over_the_training_shapes(split, workshop, views):
    seen = list(range(0, len(split), 2))
    fields = ("view_codes", "codes", "logits")
    shapes = scaled(split, workshop, fields, places=seen, views=views)
    batch = {n: a.numpy() for n, a in next(shapes.evaluation(len(split))).items()}
    plain = teach(split, workshop, *fields, views=views)
    for name, axes in (("view_codes", (0, 1)), ("codes", (0,))):
        own = plain[name][seen].astype(np.float64)
        mean, deviation = own.mean(axis=axes), own.std(axis=axes)
        changing = deviation > 0
        assert 0 < changing.sum() < changing.size  # some channels of the ReLU never fire
        deviation[~changing] = 1
        np.testing.assert_allclose(batch[name], (own - mean) / deviation, rtol=2e-3, atol=2e-3)
        assert (batch[name][..., ~changing] == 0).all()
        assert shapes.fields[name].signed
        said = shapes.bank.provenance["normalised"][name]
        np.testing.assert_allclose(said["mean"], mean, rtol=1e-6)
        np.testing.assert_allclose(said["deviation"], deviation, rtol=1e-6)
    assert np.array_equal(batch["logits"], plain["logits"][seen])
    assert set(shapes.bank.provenance["normalised"]) == {"codes", "view_codes"}
    assert shapes.bank.identity == f"{Bank(workshop.bank).identity}, normalised"
    again = pickle.loads(pickle.dumps(shapes.bank))  # as worker processes may get it
    rows = np.array([3, 0])
    assert np.array_equal(again.read("codes", rows), shapes.bank.read("codes", rows))


@pytest.mark.parametrize("shuffle", ["all", "class"])
def test_a_control_has_the_scale_of_the_method(split, workshop, shuffle):
    """The rows are exchanged, what they are divided by is not."""
    fields = ("view_codes", "codes", "logits")
    seen = [place for place in range(len(split)) if place % 3]
    order = exchange(split, shuffle == "class", seed=3)
    own = scaled(split, workshop, fields, places=seen)
    shuffled = scaled(split, workshop, fields, places=seen, shuffle=shuffle)
    batch = next(shuffled.evaluation(len(split)))
    rows = own.bank.locate([split.ids[order[place]] for place in seen])
    for name in fields:
        assert np.array_equal(batch[name].numpy(), own.bank.read(name, rows).astype(np.float32))


def test_large_banks_are_measured_in_chunks(split, workshop, monkeypatch):
    whole = scaled(split, workshop, ("view_codes",)).bank.scales["view_codes"]
    monkeypatch.setattr(normalised, "CHUNK", 7)
    for one, other in zip(
        whole, scaled(split, workshop, ("view_codes",)).bank.scales["view_codes"], strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_codes_that_nobody_reads_are_not_normalised(split, workshop):
    for fields in (("points",), ("points", "logits")):
        with pytest.raises(ConfigError, match="targets.normalise=standard scales the codes of a"):
            scaled(split, workshop, fields)
