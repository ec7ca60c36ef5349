"""Prepared sets as batches: clouds with visibility and teacher codes, and views.

A batch is a dict with ``index`` (B,), ``label`` (B,), both int64, and the fields that the training
method asked for:

    points      (B, N, 3) float32   unit sphere, z up, farthest-point order
    visibility  (B, N, V) bool      row n: which views see point n
    view_codes  (B, V, D) float32   the teacher's, of the unaugmented shape
    views       (B, V, C, H, W)     uint8, C = 1 (grey) or 3
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.augment import augment_points, augment_views
from data.bank import Bank
from data.batches import carve_validation, evaluation_batches, training_batches
from data.storage import PreparedSplit, open_split
from utils.errors import ConfigError
from utils.settings import DataSettings, PointAugmentation, ProtocolSettings, ViewAugmentation

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """Some shapes of a prepared split: ``members`` are their indices."""

    split: PreparedSplit
    members: np.ndarray


def training_parts(data: DataSettings, protocol: ProtocolSettings) -> tuple[Part, Part]:
    """What to train on, and what to watch while training.

    With a validation fraction that is held out from train and watched, and the test split is not
    opened; without, all of train is used and the test split is watched, for the log only.
    """
    train = open_split(data.name, "train", data.root)
    members, held_out = carve_validation(train.labels, protocol.val_fraction, protocol.val_seed)
    if len(held_out):
        return Part(train, members), Part(train, held_out)
    test = open_split(data.name, "test", data.root)
    return Part(train, members), Part(test, np.arange(len(test.ids)))


class PointSet:
    """The clouds of a split, whole, on the training device.

    Args:
        part: the shapes to use.
        points: how many points to use, the first of the stored order.
        fields: what batches must hold beside ``points`` (see the head of this file).
        bank: the teacher's codes, needed for ``view_codes``; already checked against the split.
        shuffle_codes: seed of a permutation that gives each shape another one's codes (a control).

    Raises:
        ConfigError: more points than stored, a field that is not here, or codes asked for without
            a bank.
    """

    def __init__(
        self,
        part: Part,
        points: int,
        device: torch.device,
        fields: Sequence[str] = (),
        bank: Bank | None = None,
        shuffle_codes: int | None = None,
    ):
        split = part.split
        unknown = set(fields) - {"points", "label", "index", "visibility", "view_codes"}
        if unknown:
            raise ConfigError(f"a set of clouds has no {sorted(unknown)}, which the method reads")
        if points > split.num_points:
            raise ConfigError(
                f"data.points={points}, and {split.name} holds {split.num_points} points a shape; "
                "use fewer or prepare it with --points"
            )
        self.members = part.members
        self.num_views = split.num_views
        self.points = torch.from_numpy(split.points()[:, :points].copy()).to(device)
        self.labels = torch.from_numpy(np.asarray(split.labels, dtype=np.int64)).to(device)
        self.packed = self.codes = None
        if "visibility" in fields:
            self.packed = torch.from_numpy(split.visibility()[:, :points].copy()).to(device)
        if "view_codes" in fields:
            if bank is None:
                raise ConfigError(
                    "distillation needs the teacher's codes: give distill.bank=FILE of "
                    "export_teacher.py, or train the baseline with loss.distill=0"
                )
            codes = bank.view_codes(split.ids)
            if shuffle_codes is not None:
                codes = codes[_derangement(len(codes), shuffle_codes)]
            self.codes = torch.from_numpy(codes).to(device)

    def __len__(self) -> int:
        return len(self.members)

    def take(self, index: Tensor) -> Batch:
        """The batch of these shape indices."""
        index = index.to(self.points.device)
        batch = {"index": index, "label": self.labels[index], "points": self.points[index]}
        if self.packed is not None:
            batch["visibility"] = unpack_bits(self.packed[index], self.num_views)
        if self.codes is not None:
            batch["view_codes"] = self.codes[index].float()
        return batch

    def training(
        self, batch_size: int, augmentation: PointAugmentation, seed: int
    ) -> Callable[[int], Iterator[Batch]]:
        """Shuffled, augmented batches of this process as a function of the epoch."""

        def batches(epoch: int) -> Iterator[Batch]:
            for index in training_batches(self.members, batch_size, seed, epoch):
                yield augment_points(self.take(index), augmentation, seed, epoch)

        return batches

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """This process's share of all shapes, unaugmented."""
        for index in evaluation_batches(self.members, batch_size):
            yield self.take(index)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """(..., ceil(count / 8)) uint8, lowest bit first -> (..., count) bool."""
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    bits = (packed.unsqueeze(-1) >> shifts) & 1
    return bits.flatten(-2)[..., :count].bool()


def _derangement(count: int, seed: int) -> np.ndarray:
    """A permutation without fixed points: one random cycle."""
    cycle = np.random.default_rng([seed, 0xC0DE]).permutation(count)
    permutation = np.empty(count, dtype=np.int64)
    permutation[cycle] = np.roll(cycle, 1)
    return permutation


class ViewReader(Dataset):
    """Decoded views of a shape, (V, C, H, W) uint8, resized if asked for; kept when ``keep``."""

    def __init__(self, split: PreparedSplit, size: int | None, keep: bool):
        self.split = split
        self.size = size
        self.kept: dict[int, np.ndarray] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.split.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        views = self.split.views(index)  # (V, H, W) or (V, H, W, 3)
        if self.size is not None and self.size != views.shape[1]:
            views = np.stack([_resize(view, self.size) for view in views])
        views = views[:, None] if views.ndim == 3 else views.transpose(0, 3, 1, 2)
        views = np.ascontiguousarray(views)
        if self.kept is not None:
            self.kept[index] = views
        return views


def _resize(view: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(view).resize((size, size), Image.Resampling.BILINEAR))


class ViewSet:
    """The views of a split, decoded by worker processes or once into memory.

    Args:
        part: the shapes to use.
        size: side in pixels to resize to, None to keep the stored size.
        workers: 0 decodes here; more decode in processes of their own, anew every epoch.
        keep: without workers, hold what was decoded in memory for the next epoch.
    """

    def __init__(
        self,
        part: Part,
        device: torch.device,
        size: int | None = None,
        workers: int = 0,
        keep: bool = True,
    ):
        self.members = part.members
        self.labels = torch.from_numpy(np.asarray(part.split.labels, dtype=np.int64)).to(device)
        self.reader = ViewReader(part.split, size, keep=keep and workers == 0)
        self.workers = workers
        self.device = device

    def __len__(self) -> int:
        return len(self.members)

    def _load(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        loader = DataLoader(
            self.reader,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=self.workers,
            collate_fn=_stack,
            pin_memory=self.device.type == "cuda",
        )
        for index, views in zip(batches, loader, strict=True):
            index = index.to(self.device)
            views = views.to(self.device, non_blocking=True)
            yield {"index": index, "label": self.labels[index], "views": views}

    def training(
        self, batch_size: int, augmentation: ViewAugmentation, seed: int
    ) -> Callable[[int], Iterator[Batch]]:
        """Shuffled, augmented batches of this process as a function of the epoch."""

        def batches(epoch: int) -> Iterator[Batch]:
            for batch in self._load(list(training_batches(self.members, batch_size, seed, epoch))):
                yield augment_views(batch, augmentation, seed, epoch)

        return batches

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """This process's share of all shapes, unaugmented."""
        yield from self._load(evaluation_batches(self.members, batch_size))


def _stack(samples: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(samples))
