"""The targets of a student: the views, the visibility, the codes."""

import numpy as np
import pytest

from data.bank import Bank
from data.rendering.cameras import unpack_visibility
from data.storage import open_split
from data.targets import _derangement, choose_views, load_targets
from utils.errors import ConfigError
from utils.settings import DistillSettings

EVERYTHING = ("points", "label", "visibility", "view_codes", "codes")
POINTS = 64


@pytest.fixture(scope="module")
def split(workshop):
    return open_split("Tiny", "train", workshop.root)


def teach(split, workshop, fields=EVERYTHING, seed=3, **settings):
    settings = DistillSettings(bank=str(workshop.bank), **settings)
    return load_targets(split, POINTS, fields, settings, seed)


def seen(targets):
    return unpack_visibility(targets.visibility, targets.num_views)


def test_stored_visibility_and_codes_are_the_default(split, workshop):
    targets = teach(split, workshop)
    stored = unpack_visibility(split.visibility()[:, :POINTS], split.num_views)
    assert np.array_equal(seen(targets), stored)
    bank = Bank(workshop.bank)
    rows = bank.locate(split.ids)
    assert np.array_equal(targets.view_codes, bank.read("view_codes", rows))
    assert np.array_equal(targets.codes, bank.read("codes", rows))


def test_only_what_is_asked_for_is_read(split):
    nothing = load_targets(split, POINTS, ("points", "label"), DistillSettings(), 0)
    assert nothing.bank is None and nothing.visibility is None
    seeing = load_targets(split, POINTS, ("visibility",), DistillSettings(), 0)
    assert seeing.bank is None and seeing.view_codes is None
    with pytest.raises(ConfigError, match="distill.bank=FILE"):
        load_targets(split, POINTS, ("codes",), DistillSettings(), 0)


def test_fewer_views_keep_rows_and_codes_together(split, workshop):
    all_views, four = teach(split, workshop), teach(split, workshop, views=4)
    assert four.num_views == 4
    chosen = [0, 3, 6, 9]
    assert np.array_equal(seen(four), seen(all_views)[..., chosen])
    assert np.array_equal(four.view_codes, all_views.view_codes[:, chosen])


@pytest.mark.parametrize("count", [1, 5, 8, 12])
def test_chosen_views_are_distinct_and_begin_with_the_first(count):
    views = choose_views(12, count)
    assert len(set(views)) == count and views[0] == 0 and views.max() < 12
    assert np.array_equal(choose_views(12, None), np.arange(12))
    with pytest.raises(ConfigError, match="distill.views=13, and the set has 12"):
        choose_views(12, 13)


def test_random_visibility_keeps_the_counts_and_nothing_else(split, workshop):
    stored, drawn = seen(teach(split, workshop)), teach(split, workshop, visibility="random")
    assert np.array_equal(seen(drawn).sum(axis=1), stored.sum(axis=1))
    agreement = (seen(drawn) == stored).mean()
    chance = np.mean(stored.mean(axis=1) ** 2 + (1 - stored.mean(axis=1)) ** 2)
    assert abs(agreement - chance) < 0.03
    again = teach(split, workshop, visibility="random")
    other = teach(split, workshop, visibility="random", seed=4)
    assert np.array_equal(again.visibility, drawn.visibility)
    assert not np.array_equal(other.visibility, drawn.visibility)


def test_all_points_or_those_that_are_not_hidden(split, workshop):
    assert seen(teach(split, workshop, visibility="all")).all()
    settings = DistillSettings(visibility="hpr", views=4)
    targets = load_targets(split, split.num_points, ("visibility",), settings, seed=0)
    stored = unpack_visibility(split.visibility(), split.num_views)[..., [0, 3, 6, 9]]
    assert 0.75 < (seen(targets) == stored).mean() < 1.0


def test_shuffled_codes_are_those_of_other_shapes(split, workshop):
    own, shuffled = teach(split, workshop), teach(split, workshop, shuffle_codes=True)
    order = _derangement(len(split.ids), seed=3)
    assert np.array_equal(shuffled.view_codes, own.view_codes[order])
    assert np.array_equal(shuffled.codes, own.codes[order])
    assert np.array_equal(shuffled.visibility, own.visibility)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_derangement_leaves_nothing_in_its_place(count):
    permutation = _derangement(count, seed=1)
    assert sorted(permutation) == list(range(count))
    assert (permutation != np.arange(count)).all()
