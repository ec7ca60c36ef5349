"""Part metrics against plain twins: the definitions, written shape by shape and part by part."""

import numpy as np
import pytest
import torch

from utils.part_metrics import (
    mean_ious,
    part_counts,
    restrict_to_category,
    score_parts,
    shape_ious,
)
from utils.tasks import PointParts

RANGES = [(0, 3), (3, 4), (4, 9), (9, 11)]  # four categories, one of them with a single part
PARTS = RANGES[-1][1]


more = pytest.mark.stress


def random_case(seed: int, shapes: int = 25, points: int = 40, unlabelled: float = 0.2):
    """Labels and predictions within the parts of each shape's category, some parts rare."""
    generator = np.random.default_rng(seed)
    categories = generator.integers(0, len(RANGES), shapes)
    sides = []
    for _ in range(2):
        rows = []
        for category in categories:
            begin, end = RANGES[category]
            shares = generator.dirichlet(np.full(end - begin, 0.3))
            rows.append(generator.choice(np.arange(begin, end), points, p=shares))
        sides.append(np.stack(rows))
    true, predicted = sides
    agree = generator.random(true.shape) < 0.6
    predicted = np.where(agree, true, predicted)
    true = np.where(generator.random(true.shape) < unlabelled, -1, true)
    return predicted, true, categories


def twin(predicted, true, categories, lenient):
    """(instance mIoU, class mIoU, per category), a loop over everything."""
    by_category = {}
    for p, t, category in zip(predicted, true, categories, strict=True):
        p, t = p[t >= 0], t[t >= 0]
        if len(t) == 0:
            continue
        ious = []
        for part in range(*RANGES[category]):
            both = sum((p == part) & (t == part))
            either = sum((p == part) | (t == part))
            absent = not (t == part).any() if lenient else either == 0
            ious.append(1.0 if absent else both / either)
        by_category.setdefault(int(category), []).append(100 * sum(ious) / len(ious))
    every = [iou for ious in by_category.values() for iou in ious]
    means = {category: sum(ious) / len(ious) for category, ious in by_category.items()}
    return sum(every) / len(every), sum(means.values()) / len(means), means


def counts_of(predicted, true):
    return part_counts(torch.from_numpy(predicted), torch.from_numpy(true), PARTS).numpy()


def score_of(predicted, true, categories):
    return score_parts(counts_of(predicted, true), categories, RANGES)


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=more) for n in range(3, 20))])
def test_both_rules_agree_with_the_definition(seed):
    predicted, true, categories = random_case(seed, shapes=3 + seed)
    found = score_of(predicted, true, categories)
    for lenient in (False, True):
        instance, class_, table = twin(predicted, true, categories, lenient)
        suffix = "_lenient" if lenient else ""
        assert getattr(found, f"instance_miou{suffix}") == pytest.approx(instance)
        assert getattr(found, f"class_miou{suffix}") == pytest.approx(class_)
        for category, value in enumerate(getattr(found, f"per_category{suffix}")):
            assert (
                np.isnan(value)
                if category not in table
                else value == pytest.approx(table[category])
            )
    labelled = true >= 0
    assert found.overall == pytest.approx(100 * (predicted == true)[labelled].mean())
    assert found.shapes.sum() == len(categories)
    outputs = {"counts": counts_of(predicted, true), "label": categories}
    task = PointParts(None, ["a", "b", "c", "d"], RANGES)
    assert task.measure(outputs) == {
        "eval/overall": found.overall,
        "eval/instance_miou": found.instance_miou,
        "eval/class_miou": found.class_miou,
    }
    kept = task.predictions(outputs)
    assert np.nanmean(kept["iou"]) == pytest.approx(found.instance_miou)
    assert np.nanmean(kept["iou_lenient"]) == pytest.approx(found.instance_miou_lenient)


def test_the_rules_differ_only_where_a_part_is_absent_from_the_labels():
    true = np.array([[0, 0, 0, 1]])
    counts = part_counts(torch.tensor([[0, 0, 2, 1]]), torch.from_numpy(true), PARTS).numpy()
    mask = np.zeros((1, PARTS), dtype=bool)
    mask[0, :3] = True
    assert mean_ious(counts, mask).tolist() == [pytest.approx((2 / 3 + 1 + 0) / 3)]
    assert mean_ious(counts, mask, lenient=True).tolist() == [pytest.approx((2 / 3 + 1 + 1) / 3)]
    ious = shape_ious(counts, np.array([0]), RANGES)
    assert ious["iou"].tolist() == [pytest.approx(100 * (2 / 3 + 1 + 0) / 3)]
    assert ious["iou_lenient"].tolist() == [pytest.approx(100 * (2 / 3 + 1 + 1) / 3)]
    counts = part_counts(torch.from_numpy(true), torch.from_numpy(true), PARTS).numpy()
    assert mean_ious(counts, mask).tolist() == [1.0]  # part 2 is on neither side


def test_a_category_with_one_part_is_always_right():
    logits = torch.randn(1, 50, PARTS)
    predicted = restrict_to_category(logits, torch.tensor([1]), RANGES).numpy()
    found = score_of(predicted, np.full((1, 50), 3), np.array([1]))
    assert (found.overall, found.instance_miou, found.class_miou_lenient) == (100.0, 100.0, 100.0)


def test_predictions_stay_within_the_category():
    logits = torch.randn(8, 30, PARTS + 1)
    logits[..., PARTS] = 50.0
    category = torch.arange(8) % 4
    found = restrict_to_category(logits[..., :PARTS], category, RANGES)
    for row, (shape, parts) in enumerate(zip(logits, found, strict=True)):
        begin, end = RANGES[category[row]]
        assert torch.equal(parts, shape[:, begin:end].argmax(dim=1) + begin)
    images = restrict_to_category(logits.view(8, 5, 6, -1), category, RANGES, background=True)
    assert images.shape == (8, 5, 6)
    assert (images == PARTS).all()


def test_shapes_without_labels_are_left_out():
    predicted, true, categories = random_case(3)
    true[4] = -1
    kept = np.arange(len(true)) != 4
    with_it = score_of(predicted, true, categories)
    without = score_of(predicted[kept], true[kept], categories[kept])
    assert with_it.instance_miou == without.instance_miou
    assert with_it.class_miou_lenient == without.class_miou_lenient
    assert with_it.shapes.sum() == len(true) - 1
    ious = shape_ious(counts_of(predicted, true), categories, RANGES)
    for values in ious.values():
        assert np.isnan(values).tolist() == [place == 4 for place in range(len(true))]
    with pytest.raises(ValueError, match="no shape has a labelled point"):
        score_of(predicted[:2], np.full_like(true[:2], -1), categories[:2])


def test_the_background_of_images_is_no_part():
    true = torch.tensor([[0, 1, PARTS, PARTS]])
    counts = part_counts(torch.tensor([[0, 1, PARTS, 0]]), true, PARTS + 1).numpy()
    found = score_parts(counts, np.array([0]), RANGES)
    assert found.overall == 75.0
    assert found.instance_miou == pytest.approx(100 * (1 / 2 + 1 + 1) / 3)


def test_numbers_outside_the_range_are_refused():
    good = torch.zeros(2, 5, dtype=torch.int64)
    for predicted, true in ((good + PARTS, good), (good - 1, good), (good, good + PARTS)):
        with pytest.raises(ValueError, match="outside 0"):
            part_counts(predicted, true, PARTS)
    with pytest.raises(ValueError, match="predictions"):
        part_counts(good, good[:, :3], PARTS)
    with pytest.raises(ValueError, match="another category's"):
        score_of(np.full((1, 5), 3), np.full((1, 5), 3), np.array([0]))
