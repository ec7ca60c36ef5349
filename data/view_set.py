"""The views of a prepared split as batches; their fields are listed in :mod:`data.datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.augment import augment_views
from data.batches import evaluation_batches, training_batches
from data.counter_random import sample_keys, uniform
from data.datasets import Batch, Part, move_batches
from data.view_reader import ViewReader
from data.view_store import DecodedViews, ResidentViews, fits
from utils.errors import ConfigError
from utils.settings import ViewAugmentation


class ViewSet:
    """The views of some shapes, all of them on the training device or decoded as they are needed.

    Args:
        part: the shapes to use.
        size: side in pixels to resize to, None to keep the stored size.
        workers: processes that decode; None: one a core; 0: none beside this one.
        resident: decode once and keep all on the device; ``auto``: if they fit well, see
            :func:`data.view_store.fits`. The batches are the same.
        fields: what batches must hold beside ``views``.

    Raises:
        ConfigError: a field that is not here.
        DataError: label images asked for and the set has none.
    """

    def __init__(
        self,
        part: Part,
        device: torch.device,
        size: int | None = None,
        workers: int | None = None,
        resident: Literal["auto"] | bool = "auto",
        fields: Sequence[str] = (),
    ):
        split = part.split
        self.members = part.members
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
                f"data.views={views_per_shape}, and the set has {self.num_views} views a shape"
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
