"""Which shapes of a prepared set are trained on, watched and tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.batches import carve_validation
from data.storage import PreparedSplit, open_split
from utils.errors import ConfigError, DataError
from utils.settings import DataSettings, PointDataSettings, ProtocolSettings

FEW = 8  # shapes, for a picture


@dataclass(frozen=True)
class Subset:
    """Some shapes of a prepared split: ``members`` are their indices."""

    split: PreparedSplit
    members: np.ndarray

    @classmethod
    def whole(cls, split: PreparedSplit) -> Subset:
        """All shapes of a split."""
        return cls(split, np.arange(len(split.ids)))


def training_subsets(data: DataSettings, protocol: ProtocolSettings) -> tuple[Subset, Subset]:
    """What to train on, and what to watch while training.

    With a validation fraction that is held out from train and watched, and the test split is not
    opened; without, all of train is used and the test split is watched, for the log only.
    """
    train = open_split(data.name, "train", data.root)
    members, held_out = carve_validation(train.labels, protocol.val_fraction, protocol.val_seed)
    if len(held_out):
        return Subset(train, members), Subset(train, held_out)
    test = open_split(data.name, "test", data.root)
    return Subset(train, members), Subset.whole(test)


def tested_data(content: Mapping[str, Any], options: Any) -> DataSettings:
    """How the training of a checkpoint read its data, with ``data``, ``root`` and ``points`` of the
    command's options in its place where they are given; all views of a shape are read, once."""
    given = {"name": options.data, "root": options.root, "points": options.points}
    schema = PointDataSettings if "points" in content["config"]["data"] else DataSettings
    used = {k: v for k, v in content["config"]["data"].items() if k in schema.model_fields}
    chosen = {key: value for key, value in given.items() if value is not None}
    return schema(**{**used, **chosen, "views": None, "cache_on_device": False})


def whole_split(data: DataSettings, split: str) -> Subset:
    """All shapes of ``train`` or ``test``."""
    return Subset.whole(open_split(data.name, split, data.root))


def tested_subset(data: DataSettings, split: str, training: Mapping[str, Any], path: str) -> Subset:
    """The shapes of ``test``, or of what the training of a checkpoint held out of train (``val``)
    or saw (``train``).

    Args:
        training: of the checkpoint. path: its file, for messages.

    Raises:
        ConfigError: it held nothing out. DataError: it was trained on other shapes.
    """
    whole = whole_split(data, "test" if split == "test" else "train")
    if split == "test":
        return whole
    if split == "val" and training["val_fraction"] == 0:
        raise ConfigError(
            f"{path} was trained without a validation split (protocol.val_fraction=0)"
        )
    found = whole.split.data_hash
    if found != training["data_hash"]:
        raise DataError(
            f"{path} was trained on shapes {training['data_hash'] or 'unknown'}, {data.name} holds "
            f"{found}: what was held out is not known; use --split test"
        )
    labels = whole.split.labels
    seen, held_out = carve_validation(labels, training["val_fraction"], training["val_seed"])
    return Subset(whole.split, held_out if split == "val" else seen)


def few_of(subset: Subset) -> Subset:
    """Some shapes of a subset, evenly spread over it, to draw."""
    places = np.unique(np.linspace(0, len(subset.members) - 1, FEW).astype(int))
    return Subset(subset.split, subset.members[places])
