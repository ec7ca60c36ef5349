"""Classification metrics from one confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts (K, K), row = true class, column = predicted class.

    Raises:
        ValueError: a label or prediction outside 0..K-1, arrays of different lengths, or no shape.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"{len(labels)} labels for {len(predictions)} predictions")
    both = np.concatenate([labels, predictions])
    if both.min() < 0 or both.max() >= classes:
        raise ValueError(f"class {both.min()}..{both.max()} outside 0..{classes - 1}")
    cells = labels.astype(np.int64) * classes + predictions  # numbers in the flattened matrix
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassificationScore:
    """Percentages: ``overall`` accuracy, ``mean_class`` (mean recall of the classes that occur),
    and ``per_class`` recall (K,), NaN for a class without a shape."""

    overall: float
    mean_class: float
    per_class: np.ndarray


def score(confusion: np.ndarray) -> ClassificationScore:
    """Accuracies of a confusion matrix (K, K) with at least one shape."""
    total = confusion.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = 100.0 * np.diag(confusion) / total
    overall = 100.0 * np.trace(confusion) / total.sum()
    return ClassificationScore(float(overall), float(np.nanmean(recall)), recall)
