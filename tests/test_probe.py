"""Probes: what is standardised, how C is chosen, which shapes an episode may draw."""

import numpy as np
import pytest
from sklearn.svm import SVC

from utils import probe
from utils.errors import DataError
from utils.probe import Episodes, choose_c, few_shot, linear_svm, standardise


def clusters(seed: int, per_class: int = 20, classes: int = 6, spread: float = 0.5):
    """Features (S, 8) around class centres that do not depend on the seed."""
    centres = np.random.default_rng(99).normal(size=(classes, 8))
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(classes), per_class))
    features = centres[labels] + spread * generator.normal(size=(len(labels), 8))
    return (features * np.logspace(-3, 3, 8) + 5).astype(np.float32), labels


def test_training_features_decide_the_scale():
    train, test = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[5.0, 6.0]])
    fitted, unseen = standardise(train, test)
    assert fitted.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert unseen.tolist() == [[3.0, 1.0]]


def test_separable_classes_are_learned_and_shuffled_labels_are_not():
    (train, train_labels), (test, test_labels) = clusters(0), clusters(1)
    found = linear_svm(train, train_labels, test, test_labels, 6)
    assert found.score.overall > 90
    assert found.confusion.sum() == len(test)
    assert found.c in probe.GRID
    assert found.held_out[probe.GRID.index(found.c)] == max(found.held_out)
    shuffled = np.random.default_rng(2).permutation(train_labels)
    assert linear_svm(train, shuffled, test, test_labels, 6).score.overall < 50


def test_c_never_sees_the_test_shapes(monkeypatch):
    """Every fit but the last is on a part of train; the test shapes are only predicted, once."""
    (train, train_labels), (test, test_labels) = clusters(0), clusters(1)
    calls = []

    class Spy(SVC):
        def fit(self, features, labels):
            calls.append(("fit", len(features)))
            return super().fit(features, labels)

        def predict(self, features):
            calls.append(("predict", len(features)))
            return super().predict(features)

    monkeypatch.setattr(probe, "SVC", Spy)
    linear_svm(train, train_labels, test[:50], test_labels[:50], 6)
    size, tries = len(train), probe.FOLDS * len(probe.GRID)
    fold = [("fit", size - size // probe.FOLDS), ("predict", size // probe.FOLDS)]
    assert calls == [*fold * tries, ("fit", size), ("predict", 50)]


def test_the_choice_is_the_same_again_and_ties_go_to_the_smaller_c():
    features, labels = clusters(3)
    assert choose_c(features, labels) == choose_c(features, labels)
    c, accuracies = choose_c(np.zeros((12, 4)), np.arange(12) % 2)
    assert c == probe.GRID[0]
    assert len(set(accuracies)) == 1


def test_a_class_with_one_shape_is_refused():
    with pytest.raises(DataError, match="single training shape"):
        choose_c(np.zeros((3, 2)), np.array([0, 0, 4]))


def test_episodes_are_reproducible_and_their_accuracy_is_that_of_the_features():
    (train, train_labels), (test, test_labels) = clusters(0), clusters(1)
    protocol = Episodes(ways=5, shots=5, queries=10, repeats=6)
    found = few_shot(train, train_labels, test, test_labels, protocol)
    assert found.shape == (6,)
    assert found.mean() > 85
    assert np.array_equal(found, few_shot(train, train_labels, test, test_labels, protocol))
    noise = np.random.default_rng(0).normal(size=train.shape), test * 0
    chance = few_shot(noise[0], train_labels, noise[1], test_labels, protocol)
    assert chance.mean() == pytest.approx(20, abs=1e-6)
    other = few_shot(train, train_labels, test, test_labels, Episodes(5, 5, 10, 6, seed=1))
    assert not np.array_equal(found, other)


def test_support_comes_from_train_and_queries_from_test():
    """The features name the split and the row: an SVM that asks for them is told which it got."""
    train_labels, test_labels = np.repeat(np.arange(4), 6), np.repeat(np.arange(4), 9)
    asked = {"fit": [], "predict": []}

    class Spy:
        def fit(self, features, labels):
            asked["fit"].append(labels)
            return self

        def predict(self, features):
            asked["predict"].append(len(features))
            return np.zeros(len(features), dtype=int)

    original, probe._svm = probe._svm, lambda c: Spy()
    try:
        few_shot(
            np.zeros((24, 2)), train_labels, np.ones((36, 2)), test_labels, Episodes(3, 6, 9, 4)
        )
    finally:
        probe._svm = original
    assert [len(labels) for labels in asked["fit"]] == [18] * 4
    assert all(
        np.bincount(labels)[np.unique(labels)].tolist() == [6] * 3 for labels in asked["fit"]
    )
    assert asked["predict"] == [27] * 4


def test_classes_that_are_too_small_are_not_drawn():
    (train, train_labels), (test, test_labels) = clusters(0), clusters(1)
    kept = (test_labels != 2) | (np.cumsum(test_labels == 2) <= 3)
    protocol = Episodes(ways=6, shots=5, queries=10, repeats=2)
    with pytest.raises(DataError, match="5 classes have 5 training and 10 test"):
        few_shot(train, train_labels, test[kept], test_labels[kept], protocol)
    found = few_shot(train, train_labels, test[kept], test_labels[kept], Episodes(5, 5, 10, 2))
    assert found.shape == (2,)
