"""The targets of a student: the views, the visibility, what the teacher says."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

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
