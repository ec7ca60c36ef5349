"""Part numbers, within a class and over all classes of a set.

Two numberings. *Stored*: a part is its place in ``part_names[class]``, as uint8, with two values
set apart: ``UNLABELLED`` (a point of a mesh without labels; every pixel of its label images) and
``BACKGROUND`` (a pixel whose ray meets nothing). *Global*: the parts of a class follow those of the
classes before it, as int64, with -1 for unlabelled and the number of parts for the background.
"""

from __future__ import annotations

import numpy as np

UNLABELLED = 255
BACKGROUND = 254
MOST_PARTS = BACKGROUND  # of one class


class PartNumbers:
    """The numbering over all classes of a set.

    Args:
        class_names: in the order of their labels. part_names: class -> its parts; classes without
            part labels may be absent.

    Attributes:
        names: of all parts, as class/part. ranges: (begin, end) of each class' parts, empty for a
            class without. count: of all parts.
        table: (classes, 256) int64, from class and stored number to global number.
    """

    def __init__(self, class_names: list[str], part_names: dict[str, list[str]]):
        self.names = [f"{name}/{part}" for name in class_names for part in part_names.get(name, [])]
        self.count = len(self.names)
        ends = np.cumsum([0] + [len(part_names.get(name, [])) for name in class_names]).tolist()
        self.ranges = list(zip(ends, ends[1:], strict=False))
        self.table = np.full((len(class_names), 256), -1, np.int64)
        self.table[:, BACKGROUND] = self.count
        for row, (begin, end) in zip(self.table, self.ranges, strict=True):
            row[: end - begin] = np.arange(begin, end)

    def to_global(self, stored: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Stored numbers (S, ...) uint8 of shapes of classes ``labels`` (S,) -> global, int64."""
        return self.table[labels.reshape(-1, *[1] * (stored.ndim - 1)), stored]
