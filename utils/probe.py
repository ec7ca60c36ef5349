"""Probes of frozen features: what a network learned without labels, read out by a linear SVM.

Features are standardised by the mean and the deviation of the shapes that the SVM is fitted to. The
SVM is scikit-learn's ``SVC(kernel="linear")``, one against one, as in the literature on
self-supervised point clouds; at thousands of shapes with a thousand features it also takes a tenth
of the time of ``LinearSVC``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from utils.errors import DataError
from utils.metrics import ClassificationScore, confusion_matrix, score

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # untrained networks want the larger ones
FOLDS = 3
FEW_SHOT_C = 1.0  # a handful of shapes can always be parted: any large C finds the same planes
CACHE_MB = 1000
Labelled = tuple[np.ndarray, np.ndarray]  # features (S, D), labels (S,)


def _svm(c: float) -> SVC:
    return SVC(kernel="linear", C=c, cache_size=CACHE_MB)


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, D) and (T, D) less the mean of ``train``, over its deviation; constant channels become 0
    in ``train``."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 1e-6 * max(deviation.max(), 1e-30), deviation, 1.0)
    return (train - mean) / deviation, (test - mean) / deviation


def choose_c(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> tuple[float, list[float]]:
    """The C of :data:`GRID` by stratified cross-validation, and the accuracy of each in percent.

    Every fold is standardised by its own training part. Of equal accuracies the smaller C wins.

    Args:
        features: (S, D) of the training shapes, and of no others. labels: (S,).

    Raises:
        DataError: a class with a single shape.
    """
    fewest = np.bincount(labels)[np.unique(labels)].min()
    if fewest < 2:
        raise DataError("a class has a single training shape: C cannot be chosen on held-out ones")
    folds = StratifiedKFold(int(min(FOLDS, fewest)), shuffle=True, random_state=seed)
    hits = np.zeros(len(GRID))
    for fitted, held_out in folds.split(features, labels):
        inside, outside = standardise(features[fitted], features[held_out])
        for place, c in enumerate(GRID):
            predicted = _svm(c).fit(inside, labels[fitted]).predict(outside)
            hits[place] += (predicted == labels[held_out]).sum()
    return GRID[int(hits.argmax())], (100.0 * hits / len(labels)).tolist()


@dataclass(frozen=True)
class Episodes:
    """A few-shot protocol: ``ways`` classes are drawn, ``shots`` training shapes of each to fit an
    SVM, ``queries`` test shapes of each to classify; ``repeats`` such episodes, from ``seed``."""

    ways: int
    shots: int
    queries: int
    repeats: int
    seed: int = 0


@dataclass(frozen=True)
class ProbeReport:
    """``columns`` of the row of results, its ``protocol``, ``lines`` and ``headline`` to print, and
    ``predictions`` for every test shape, where it makes any."""

    columns: dict[str, float]
    protocol: str
    lines: list[str]
    headline: str
    predictions: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class SVMResult:
    """``c``: the chosen one; ``held_out``: accuracy of each C of the grid in cross-validation;
    ``predicted`` (T,), ``confusion`` (K, K) and its ``score`` on the test shapes."""

    c: float
    held_out: list[float]
    predicted: np.ndarray
    confusion: np.ndarray
    score: ClassificationScore


def svm_report(train: Labelled, test: Labelled, classes: list[str]) -> ProbeReport:
    """:func:`linear_svm` in words; ``train`` and ``test`` are features and their labels."""
    result = linear_svm(*train, *test, len(classes))
    width = max(len(name) for name in classes)
    lines = [f"{'class':{width}}  shapes  accuracy"]
    lines += [
        f"{name:{width}}  {shapes:6d}  {recall:8.1f}"
        for name, shapes, recall in zip(
            classes, result.confusion.sum(axis=1), result.score.per_class, strict=True
        )
    ]
    lines += ["held-out accuracy of each C, on train:"]
    lines += [f"  {c:g}: {value:.1f}" for c, value in zip(GRID, result.held_out, strict=True)]
    grid = " ".join(f"{c:g}" for c in GRID)
    return ProbeReport(
        {"overall": result.score.overall, "mean_class": result.score.mean_class},
        f"linear SVM, C {result.c:g} of {grid} by {FOLDS}-fold cross-validation on train, "
        "standardised features",
        lines,
        f"overall accuracy {result.score.overall:.1f} %, "
        f"mean class accuracy {result.score.mean_class:.1f} %",
        {"prediction": result.predicted},
    )


def few_shot_report(train: Labelled, test: Labelled, episodes: Episodes) -> ProbeReport:
    """:func:`few_shot` in words."""
    found = few_shot(*train, *test, episodes)
    # the deviation of the episodes, as the literature gives it
    columns, spread = {"overall": float(found.mean())}, ""
    if len(found) > 1:
        columns["deviation"] = float(found.std(ddof=1))
        spread = f" ± {columns['deviation']:.1f}"
    return ProbeReport(
        columns,
        f"{episodes.ways}-way {episodes.shots}-shot, linear SVM with C {FEW_SHOT_C:g}, "
        f"{episodes.queries} queries a class from test, {episodes.repeats} episodes",
        [f"episode {number}: {value:.1f} %" for number, value in enumerate(found, start=1)],
        f"accuracy {found.mean():.1f}{spread} %",
    )


def linear_svm(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    classes: int,
) -> SVMResult:
    """Fit on the training features (S, D) with the C chosen there, test once on (T, D).

    Raises:
        DataError: see :func:`choose_c`.
    """
    c, held_out = choose_c(train, train_labels)
    fitted, unseen = standardise(train, test)
    predicted = _svm(c).fit(fitted, train_labels).predict(unseen)
    confusion = confusion_matrix(test_labels, predicted, classes)
    return SVMResult(c, held_out, predicted, confusion, score(confusion))


def few_shot(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    episodes: Episodes,
) -> np.ndarray:
    """Accuracies (repeats,) in percent of episodes drawn from the features (S, D) and (T, D).

    The episodes of a seed are the same for all networks. Classes with too few shapes are not drawn.

    paper: CrossPoint's published code draws the queries from train too.
    here: they come from the test split, because the encoder may have been trained on train.

    Raises:
        DataError: fewer than ``ways`` classes have enough shapes.
    """
    support_of = {label: np.flatnonzero(train_labels == label) for label in np.unique(train_labels)}
    query_of = {label: np.flatnonzero(test_labels == label) for label in support_of}
    eligible = [
        label
        for label in support_of
        if len(support_of[label]) >= episodes.shots and len(query_of[label]) >= episodes.queries
    ]
    if len(eligible) < max(episodes.ways, 2):
        raise DataError(
            f"{len(eligible)} classes have {episodes.shots} training and {episodes.queries} test "
            f"shapes, {max(episodes.ways, 2)} are needed: lower --ways, --shots or --queries"
        )
    accuracies = []
    for repeat in range(episodes.repeats):
        generator = np.random.default_rng([episodes.seed, repeat, 0xF5])
        drawn = generator.choice(eligible, episodes.ways, replace=False)
        support = [generator.choice(support_of[k], episodes.shots, replace=False) for k in drawn]
        queries = [generator.choice(query_of[k], episodes.queries, replace=False) for k in drawn]
        support, queries = np.concatenate(support), np.concatenate(queries)
        fitted, unseen = standardise(train[support], test[queries])
        predicted = _svm(FEW_SHOT_C).fit(fitted, train_labels[support]).predict(unseen)
        accuracies.append(100.0 * (predicted == test_labels[queries]).mean())
    return np.array(accuracies)
