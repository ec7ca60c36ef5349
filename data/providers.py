"""Who provides which field of a batch: the clouds, the views or the targets of a prepared split."""

from __future__ import annotations

from collections.abc import Set
from functools import partial

import numpy as np

from data.bank import Bank
from data.storage import PreparedSplit
from data.stores import Reader
from data.subsets import Subset
from data.targets import bank_readers, open_bank, visibility_reader
from data.views import part_image_reader, view_reader
from utils.errors import ConfigError
from utils.settings import DataSettings, TargetSettings

ALWAYS = ("index", "label")  # in every batch
NUMBERS = "view_index"  # which of the views that teach a batch holds
CLOUD = ("points", "visibility", "parts")  # row n of each is about point n
CHANGED = (*CLOUD, "views", "part_images")  # what changes at random in training


def make_readers(
    subset: Subset,
    fields: Set[str],
    data: DataSettings,
    targets: TargetSettings,
    views: np.ndarray,
    seed: int,
) -> tuple[list[Reader], Bank | None]:
    """Readers of ``fields`` for the whole split of a subset, and the bank if some come from it.

    Args:
        views: (V,) the numbers of the views that batches hold. seed: of what targets draw.

    Raises:
        ConfigError: a field that nothing provides, or more points than there are.
        DataError: the set has no part labels or label images, or the bank does not fit.
    """
    split, readers = subset.split, []
    if set(CLOUD) & fields:
        points = _count_points(split, data)
        if "points" in fields:
            source = partial(split.points, count=points)
            readers.append(Reader("points", (points, 3), np.dtype(np.float32), source))
        if "parts" in fields:
            split.check_parts()
            source = partial(split.parts, count=points)
            readers.append(Reader("parts", (points,), np.dtype(np.uint8), source))
        if "visibility" in fields:
            readers.append(visibility_reader(split, points, views, targets.visibility, seed))
    if "views" in fields:
        readers.append(view_reader(split, views, data.size))
    if "part_images" in fields:
        readers.append(part_image_reader(split, views, data.size))
    taught = sorted(fields - {*ALWAYS, *CHANGED, NUMBERS})
    if not taught:
        return readers, None
    bank = open_bank(subset, targets, taught, views, [*ALWAYS, *CHANGED, NUMBERS])
    return readers + bank_readers(split, bank, taught, views, targets.shuffle, seed), bank


def _count_points(split: PreparedSplit, data: DataSettings) -> int:
    points = getattr(data, "points", split.num_points)  # teachers' settings have none
    if points > split.num_points:
        raise ConfigError(
            f"{points} points asked for, and {split.name} holds {split.num_points} per shape: "
            "use fewer (data.points=, in test.py --points) or prepare it with --points"
        )
    return points
