"""Batches, the validation split and augmentation: what each sample gets, whoever draws it."""

import numpy as np
import pytest
import torch

from data import batches
from data.augment import augment_points, augment_views
from data.batches import carve_validation, evaluation_batches, training_batches
from data.datasets import unpack_bits
from data.rendering.cameras import pack_visibility
from data.rng import sample_keys, uniform
from utils.errors import ConfigError, DataError
from utils.settings import PointAugmentation, ViewAugmentation


def test_validation_is_a_stratified_partition():
    labels = np.repeat([0, 1, 2, 3], [40, 10, 2, 1])
    train, held_out = carve_validation(labels, 0.2, seed=5)
    assert sorted([*train, *held_out]) == list(range(53))
    assert np.bincount(labels[held_out], minlength=4).tolist() == [8, 2, 0, 0]
    again = carve_validation(labels, 0.2, seed=5)[1]
    assert np.array_equal(held_out, again)
    assert not np.array_equal(held_out, carve_validation(labels, 0.2, seed=6)[1])
    assert np.bincount(labels[carve_validation(labels, 0.99, 0)[0]], minlength=4).min() == 1


def test_validation_of_nothing_and_of_too_little():
    labels = np.repeat([0, 1], 3)
    assert len(carve_validation(labels, 0.0, 0)[1]) == 0
    with pytest.raises(DataError, match="too small"):
        carve_validation(labels, 0.1, 0)


def test_training_batches_are_disjoint_full_and_differ_by_epoch():
    members = np.arange(100, 143)
    drawn = training_batches(members, 10, seed=1, epoch=0)
    assert drawn.shape == (4, 10)
    assert len(set(drawn.flatten().tolist())) == 40
    assert set(drawn.flatten().tolist()) <= set(members.tolist())
    assert torch.equal(drawn, training_batches(members, 10, seed=1, epoch=0))
    assert not torch.equal(drawn, training_batches(members, 10, seed=1, epoch=1))
    with pytest.raises(ConfigError, match="batch_size=44"):
        training_batches(members, 44, 0, 0)


def test_a_batch_of_one_shape_is_refused():
    with pytest.raises(ConfigError, match="batch_size=1 on 1 processes"):
        training_batches(np.arange(10), 1, 0, 0)


def test_processes_share_the_batches_of_one(monkeypatch):
    members = np.arange(37)
    whole = training_batches(members, 8, seed=3, epoch=2)
    everything = evaluation_batches(members, 5)
    parts, evaluated = [], []
    monkeypatch.setattr(batches, "world_size", lambda: 2)
    monkeypatch.setattr(batches, "local_share", lambda total, what: total // 2)
    for number in range(2):
        monkeypatch.setattr(batches, "rank", lambda number=number: number)
        parts.append(training_batches(members, 8, seed=3, epoch=2))
        evaluated += evaluation_batches(members, 5)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert (
        sorted(torch.cat(evaluated).tolist()) == torch.cat(everything).tolist() == list(range(37))
    )


def test_draws_belong_to_the_sample():
    index = torch.arange(50)
    keys = sample_keys(7, 3, index)
    numbers = uniform(keys, 400, stream=1)
    assert torch.equal(uniform(sample_keys(7, 3, index[20:30]), 400, stream=1), numbers[20:30])
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(numbers.std() - 12**-0.5) < 0.01
    assert len(numbers.unique()) > 0.99 * numbers.numel()
    for other in (
        uniform(keys, 400, 2),
        uniform(sample_keys(7, 4, index), 400, 1),
        uniform(sample_keys(8, 3, index), 400, 1),
    ):
        correlation = np.corrcoef(numbers.flatten(), other.flatten())[0, 1]
        assert abs(correlation) < 0.02


def cloud_batch(shapes=64, points=200):
    torch.manual_seed(0)
    return {
        "points": torch.randn(shapes, points, 3),
        "index": torch.arange(shapes),
        "visibility": torch.rand(shapes, points, 3) < 0.5,
    }


def test_scale_and_shift_stay_in_their_range_and_follow_the_sample():
    batch = cloud_batch()
    settings = PointAugmentation(scale=(2 / 3, 1.5), anisotropic=True, shift=0.2)
    out = augment_points(batch, settings, seed=0, epoch=0)["points"]
    # Two points of a cloud tell its factors and its shift.
    factors = (out[:, 0] - out[:, 1]) / (batch["points"][:, 0] - batch["points"][:, 1])
    shifts = out[:, 0] - factors * batch["points"][:, 0]
    assert factors.min() > 0.66 and factors.max() < 1.51 and factors.std(dim=1).min() > 0
    assert shifts.abs().max() < 0.2001 and shifts.abs().max() > 0.15
    half = {name: value[32:] for name, value in batch.items()}
    torch.testing.assert_close(augment_points(half, settings, 0, 0)["points"], out[32:])
    assert not torch.equal(augment_points(batch, settings, 0, 1)["points"], out)
    isotropic = augment_points(batch, PointAugmentation(scale=(0.5, 2.0)), 0, 0)["points"]
    ratio = isotropic / batch["points"]
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)


def test_dropped_points_take_the_visibility_of_the_first():
    batch = cloud_batch()
    out = augment_points(batch, PointAugmentation(dropout=0.875), seed=0, epoch=0)
    dropped = (out["points"] != batch["points"]).any(dim=2)
    share = dropped.float().mean(dim=1)
    assert share.max() > 0.7 and share.min() < 0.1 and share.max() < 0.95
    first = out["points"][:, :1].expand_as(out["points"])
    assert torch.equal(out["points"][dropped], first[dropped])
    first_seen = batch["visibility"][:, :1].expand_as(batch["visibility"])
    assert torch.equal(out["visibility"][dropped], first_seen[dropped])
    assert torch.equal(out["visibility"][~dropped], batch["visibility"][~dropped])


def test_no_augmentation_changes_nothing():
    batch = cloud_batch(4, 10)
    out = augment_points(batch, PointAugmentation(), 0, 0)
    assert all(torch.equal(out[name], batch[name]) for name in batch)
    views = {"views": torch.zeros(1, 2, 1, 4, 4, dtype=torch.uint8), "index": torch.zeros(1).long()}
    assert augment_views(views, ViewAugmentation(), 0, 0)["views"].dtype == torch.uint8


def test_all_views_of_a_shape_change_alike():
    torch.manual_seed(1)
    image = torch.randint(0, 256, (16, 1, 1, 12, 12), dtype=torch.uint8)
    batch = {"views": image.expand(16, 5, 1, 12, 12).contiguous(), "index": torch.arange(16)}
    flipped = augment_views(batch, ViewAugmentation(flip=True), 0, 0)["views"]
    original = batch["views"].float() / 255
    same = (flipped - original).abs().amax(dim=(1, 2, 3, 4)) < 1e-3
    mirrored = (flipped - original.flip(4)).abs().amax(dim=(1, 2, 3, 4)) < 1e-3
    assert (same ^ mirrored).all() and same.any() and mirrored.any()
    moved = augment_views(
        batch, ViewAugmentation(flip=True, scale=(0.8, 1.2), shift=0.1, brightness=0.3), 0, 0
    )["views"]
    assert torch.equal(moved, moved[:, :1].expand_as(moved))
    assert moved.min() >= 0 and moved.max() <= 1
    assert not torch.equal(moved[0], moved[1])


def test_packed_bits_come_back():
    visible = np.random.default_rng(0).random((4, 9, 13)) < 0.5
    packed = torch.from_numpy(pack_visibility(visible))
    assert torch.equal(unpack_bits(packed, 13), torch.from_numpy(visible))
