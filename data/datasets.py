"""Prepared sets as batches: clouds with visibility and teacher codes, and what views share with
them (:mod:`data.datasets`).

A batch is a dict with ``index`` (B,), ``label`` (B,), both int64, and the fields that the training
method asked for:

    points      (B, N, 3) float32   unit sphere, z up, farthest-point order
    visibility  (B, N, V) bool      row n: which views see point n
    view_codes  (B, V, D) float32   the teacher's, of the unaugmented shape
    codes       (B, D) float32      the teacher's, of the whole shape
    parts       (B, N) int64        numbered over all classes, -1 without a label
    views       (B, V, C, H, W)     uint8, C = 1 (grey) or 3
    part_images (B, V, H, W) int64  like ``parts`` for pixels, and one more, P, for the background
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.augment import augment_points, augment_views
from data.batches import carve_validation, evaluation_batches, move_batches, training_batches
from data.rng import sample_keys, uniform
from data.storage import PreparedSplit, open_split
from data.targets import FIELDS as TAUGHT_FIELDS
from data.targets import Targets
from data.views import DecodedViews, ResidentViews, ViewReader, fits
from utils.errors import ConfigError
from utils.settings import DataSettings, PointAugmentation, ProtocolSettings, ViewAugmentation

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Subset:
    """Some shapes of a prepared split: ``members`` are their indices."""

    split: PreparedSplit
    members: np.ndarray


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
    return Subset(train, members), Subset(test, np.arange(len(test.ids)))


class PointSet:
    """The clouds of a split, whole, on the training device.

    Args:
        subset: the shapes to use.
        points: how many points to use, the first of the stored order.
        fields: what batches must hold beside ``points`` (see the head of this file).
        targets: of the student, for the same split and number of points.

    Raises:
        ConfigError: more points than stored, or a field that is not here.
        DataError: part labels asked for and the set has none.
    """

    def __init__(
        self,
        subset: Subset,
        points: int,
        device: torch.device,
        fields: Sequence[str] = (),
        targets: Targets | None = None,
    ):
        split = subset.split
        unknown = set(fields) - {"points", "label", "index", "parts", *TAUGHT_FIELDS}
        if unknown:
            raise ConfigError(f"a set of clouds has no {sorted(unknown)}, which the method reads")
        if points > split.num_points:
            raise ConfigError(
                f"{points} points asked for, and {split.name} holds {split.num_points} per shape: "
                "use fewer (data.points=, in test.py --points) or prepare it with --points"
            )
        targets = targets or Targets()
        self.members = subset.members
        self.device = device
        self.num_views = targets.num_views
        self.arrays = {
            "label": np.asarray(split.labels, dtype=np.int64),
            "points": split.points()[:, :points],
            "visibility": targets.visibility,
            "view_codes": targets.view_codes,
            "codes": targets.codes,
        }
        if "parts" in fields:
            self.arrays["parts"] = split.global_parts()[:, :points]
        self.arrays = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(device)
            for name, array in self.arrays.items()
            if array is not None
        }

    def __len__(self) -> int:
        return len(self.members)

    def take(self, index: Tensor) -> Batch:
        """The batch of these shape indices, (B,) int64 on the device."""
        batch = {"index": index} | {name: array[index] for name, array in self.arrays.items()}
        for name in ("view_codes", "codes"):
            if name in batch:
                batch[name] = batch[name].float()
        if "visibility" in batch:
            batch["visibility"] = unpack_bits(batch["visibility"], self.num_views)
        if "parts" in batch:
            batch["parts"] = batch["parts"].long()
        return batch

    def training(
        self, batch_size: int, augmentation: PointAugmentation, seed: int
    ) -> Callable[[int], Iterator[Batch]]:
        """Shuffled, augmented batches of this process as a function of the epoch."""

        def batches(epoch: int) -> Iterator[Batch]:
            drawn = training_batches(self.members, batch_size, seed, epoch)
            for index in move_batches(drawn, self.device):
                yield augment_points(self.take(index), augmentation, seed, epoch)

        return batches

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """This process's share of all shapes, unaugmented."""
        for index in move_batches(evaluation_batches(self.members, batch_size), self.device):
            yield self.take(index)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """(..., ceil(count / 8)) uint8, lowest bit first -> (..., count) bool."""
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    bits = (packed.unsqueeze(-1) >> shifts) & 1
    return bits.flatten(-2)[..., :count].bool()


class ViewSet:
    """The views of some shapes, all of them on the training device or decoded as they are needed.

    Args:
        subset: the shapes to use.
        size: side in pixels to resize to, None to keep the stored size.
        workers: processes that decode; None: one per core; 0: none beside this one.
        resident: decode once and keep all on the device; ``auto``: if they fit well, see
            :func:`data.views.fits`. The batches are the same.
        fields: what batches must hold beside ``views``.

    Raises:
        ConfigError: a field that is not here.
        DataError: label images asked for and the set has none.
    """

    def __init__(
        self,
        subset: Subset,
        device: torch.device,
        size: int | None = None,
        workers: int | None = None,
        resident: Literal["auto"] | bool = "auto",
        fields: Sequence[str] = (),
    ):
        split = subset.split
        self.members = subset.members
        self.num_views = split.num_views
        self.labels = torch.from_numpy(np.asarray(split.labels, dtype=np.int64)).to(device)
        self.part_table = torch.from_numpy(split.part_numbers.table).to(device)
        self.reader = ViewReader(split, size, fields)
        self.workers = workers
        self.resident = resident
        self.device = device

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def _store(self) -> ResidentViews | DecodedViews:
        """Where the images come from; made when the first are asked for."""
        resident = self.resident
        if resident == "auto":
            resident = fits(self.reader, len(self.members), self.device)
        store = ResidentViews if resident else DecodedViews
        return store(self.reader, self.members, self.workers, self.device)

    def _load(
        self, batches: Sequence[Tensor], views: Sequence[Tensor] | None = None
    ) -> Iterator[Batch]:
        """The batches of these shapes, (B,) each, with these of their views, (B, n), or all."""
        images = self._store.batches(batches, views)
        for index, found in zip(move_batches(batches, self.device), images, strict=True):
            batch = {"index": index, "label": self.labels[index], **found}
            if "part_images" in batch:
                rows = batch["label"].view(-1, 1, 1, 1)
                batch["part_images"] = self.part_table[rows, batch["part_images"].long()]
            yield batch

    def training(
        self,
        batch_size: int,
        augmentation: ViewAugmentation,
        seed: int,
        views_per_shape: int | None = None,
        balanced: bool = False,
    ) -> Callable[[int], Iterator[Batch]]:
        """Shuffled, augmented batches of this process as a function of the epoch.

        Args:
            views_per_shape: so many different views of each shape, drawn anew every epoch; None
                for all.
            balanced: classes come evenly, whatever their numbers of shapes.

        Raises:
            ConfigError: more views than there are.
        """
        if views_per_shape is not None and views_per_shape > self.num_views:
            raise ConfigError(
                f"data.views={views_per_shape}, and the set has {self.num_views} views per shape"
            )
        labels = self.labels.numpy(force=True) if balanced else None

        def batches(epoch: int) -> Iterator[Batch]:
            drawn = training_batches(self.members, batch_size, seed, epoch, labels)
            views = None
            if views_per_shape is not None:
                keys = sample_keys(seed, epoch, drawn.flatten())
                order = uniform(keys, self.num_views, stream=9).argsort(dim=1)
                views = order[:, :views_per_shape].view(*drawn.shape, -1)
            for batch in self._load(drawn, views):
                yield augment_views(batch, augmentation, seed, epoch)

        return batches

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """This process's share of all shapes, all views, unaugmented."""
        yield from self._load(evaluation_batches(self.members, batch_size))


# TEMPORARY SHIM
class ShapeSet:
    def __init__(self, subset, fields, data, device, targets=None, seed=0):
        from types import SimpleNamespace as NS

        from utils.fields import Field
        from utils.settings import TargetSettings

        fields = set(fields)
        self.cameras, self.bank, self.data = {}, None, data
        if "points" in fields:
            t = targets or TargetSettings()
            from data.targets import load_targets

            old = NS(
                bank=t.bank,
                views=t.views,
                visibility=t.visibility,
                shuffle_codes=t.shuffle == "all",
            )
            tt = load_targets(subset.split, data.points, list(fields), old, seed)
            self.bank = tt.bank
            self.set = PointSet(subset, data.points, device, list(fields), tt)
            self.views = False
            self.fields = {
                "points": Field((data.points, 3)),
                "label": Field(()),
                "index": Field(()),
                "parts": Field((data.points,)),
            }
            if tt.visibility is not None:
                self.fields["visibility"] = Field((data.points, tt.num_views))
            if tt.view_codes is not None:
                self.fields["view_codes"] = Field(tt.view_codes.shape[1:], False)
            if tt.codes is not None:
                self.fields["codes"] = Field(tt.codes.shape[1:], False)
        else:
            self.set = ViewSet(
                subset,
                device,
                data.size,
                data.workers,
                data.cache_on_device,
                [f for f in fields if f != "views"],
            )
            self.views = True
            self.fields = {
                "views": Field((12, 1, 32, 32)),
                "label": Field(()),
                "index": Field(()),
                "part_images": Field((12, 32, 32)),
            }

    def __len__(self):
        return len(self.set)

    def training(self, batch_size, seed, points, views):
        if self.views:
            return self.set.training(
                batch_size, views, seed, self.data.views, self.data.class_balanced
            )
        return self.set.training(batch_size, points, seed)

    def evaluation(self, n):
        return self.set.evaluation(n)
