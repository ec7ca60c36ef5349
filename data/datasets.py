"""Prepared sets as batches, merged by shape from whatever provides the fields that are asked for.

A batch is a dict with ``index`` (B,) and ``label`` (B,), both int64, and of these the ones that
loss terms or an evaluation read:

    points      (B, N, 3) float32   unit sphere, z up, farthest-point order
    visibility  (B, N, V) bool      row n: which views see point n
    parts       (B, N) int64        numbered over all classes, -1 without a label
    views       (B, V, C, H, W)     uint8, or float32 in [0, 1] once changed; C = 1 (grey) or 3
    part_images (B, V, H, W) int64  like ``parts`` for pixels, and one more, P, for the background
    view_index  (B, V) int64        which rows of ``cameras`` these views are
    and any array of the bank, (B, ...) float32: ``view_codes`` (B, V, D), ``codes`` (B, D), ...

The V views are those of ``targets.views`` or, in training, ``data.views`` random ones of these: the
same ones in the same order in all fields of a batch, arrays ``view_*`` of the bank included. The
first five fields come in copies as well, each changed at random in its own way: ``points@1`` and
``visibility@1`` are copy 1 of the cloud, ``views@1`` is copy 1 of the same views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from data.batches import evaluation_batches, move_batches
from data.providers import ALWAYS, CHANGED, NUMBERS, make_readers
from data.stores import Reader, Resident, Streamed, divide
from data.subsets import Subset
from data.targets import choose_views
from utils.errors import ConfigError
from utils.fields import Field, holds_codes, split_copy
from utils.settings import DataSettings, TargetSettings

Batch = dict[str, Tensor]
# Among what a batch is drawn from, the views of each shape: (B, n) int64, places in ShapeSet.views.
# No field has such a name.
COLUMNS = "@views"


class ShapeSet:
    """Some shapes of a split as batches of the fields that are asked for.

    Args:
        subset: the shapes to use.
        fields: what batches hold beside ``index`` and ``label``, see the head of this file.
        data: how many points and views, in which size, and where they are kept.
        targets: which views teach, who sees the points, and the bank of the teacher, whose codes
            may be normalised over the shapes of ``subset``.
        seed: of the random visibility and of the exchange of rows of the bank.

    Attributes:
        fields: name -> :class:`Field` of everything that training batches hold.
        bank: the one that fields come from, or None.

    Raises:
        ConfigError: a field that nothing provides, more points or views than there are, or arrays
            that are to stay on the device and do not fit.
        DataError: the set has no part labels or label images, or the bank does not fit.
    """

    def __init__(
        self,
        subset: Subset,
        fields: Iterable[str],
        data: DataSettings,
        device: torch.device,
        targets: TargetSettings | None = None,
        seed: int = 0,
    ):
        split, targets = subset.split, targets or TargetSettings()
        self.split, self.members, self.data, self.device = split, subset.members, data, device
        self.views = choose_views(split.num_views, targets.views)
        self._copies = sort_copies(set(fields) - set(ALWAYS))
        read = {base for names in self._copies.values() for base in names}
        readers, self.bank = make_readers(subset, read, data, targets, self.views, seed)
        if targets.shuffle != "none" and self.bank is None:
            raise ConfigError(
                f"targets.shuffle={targets.shuffle} exchanges what a bank says of shapes, and no "
                "term in force reads one: leave it out"
            )
        if targets.normalise != "none" and not any(map(holds_codes, read)):
            raise ConfigError(
                f"targets.normalise={targets.normalise} scales the codes of a bank, and no term in "
                "force reads any: leave it out"
            )
        self.random_views = self._count_random_views(readers)
        self.fields = self._describe(readers)
        self._labels = torch.from_numpy(split.labels).to(device)
        self._part_table = torch.from_numpy(split.part_numbers.table).to(device)
        arrays = [reader for reader in readers if not reader.decodes]
        self.images = [reader for reader in readers if reader.decodes]
        stay, self._to_stream = divide(arrays, len(self.members), device, data.cache_on_device)
        self._kept = [self._keep(stay)] if stay else []
        if data.cache_on_device is True:  # refused now, not at the first batch
            divide(self.images, len(self.members), device, True)

    def _count_random_views(self, readers: Sequence[Reader]) -> int | None:
        numbered = NUMBERS in self._copies.get(0, {})
        if not numbered and not any(r.by_view or r.name == "visibility" for r in readers):
            return None
        count = self.data.views
        if count is not None and count > len(self.views):
            raise ConfigError(
                f"data.views={count}, and the set has {len(self.views)} views per shape"
            )
        return count

    def _describe(self, readers: Sequence[Reader]) -> dict[str, Field]:
        count = self.random_views or len(self.views)
        shapes = {r.name: (count, *r.shape[1:]) if r.by_view else r.shape for r in readers}
        if "visibility" in shapes:
            shapes["visibility"] = (shapes["visibility"][0], count)  # kept as bits
        shapes[NUMBERS] = (count,)
        fields = {name: Field(()) for name in ALWAYS}
        for names in self._copies.values():
            for base, name in names.items():
                if base in (*CHANGED, NUMBERS):
                    fields[name] = Field(shapes[base])
                else:
                    bank = self.bank
                    fields[name] = Field(shapes[base], bank.signed(base), bank.identity)
        return fields

    def __len__(self) -> int:
        return len(self.members)

    @property
    def cameras(self) -> dict[str, np.ndarray]:
        """``intrinsics`` (V, 3, 3) and ``extrinsics`` (V, 4, 4) of the views that teach, see
        ``data.rendering.cameras``; ``image_size``, the side in pixels that intrinsics are for."""
        return {
            "intrinsics": self.split.intrinsics[self.views],
            "extrinsics": self.split.extrinsics[self.views],
            "image_size": np.array(self.split.image_size),
        }

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """This process's share of all shapes, all views, unaugmented."""
        for inputs in self.inputs(evaluation_batches(self.members, batch_size)):
            yield self.draw(inputs)

    def take(self, index: Tensor) -> Batch:
        """The batch of these members, (B,) int64 indices into the split, unaugmented."""
        return self.draw(next(self.inputs([index.cpu()])))

    def inputs(self, batches: Sequence[Tensor], views: Tensor | None = None) -> Iterator[Batch]:
        """What a batch is drawn from, on the device: its ``index``, the views of each shape if they
        are not all of them, and what is not kept there, in the form in which it is stored.

        Args:
            batches: shapes of each, (B,). views: a batch's (B, n), places in ``self.views``.
        """
        chosen = [None] * len(batches) if views is None else views.to(self.device)
        indices = move_batches(batches, self.device)
        streams = [s.batches(batches, views) for s in self._stores if isinstance(s, Streamed)]
        for index, columns, *parts in zip(indices, chosen, *streams, strict=True):
            inputs = {"index": index} | ({} if columns is None else {COLUMNS: columns})
            for part in parts:
                inputs |= part
            yield inputs

    def draw(self, inputs: Batch, change: Callable[[Batch, int], Batch] | None = None) -> Batch:
        """The batch of :meth:`inputs`. Nothing here waits for the host, so that a CUDA graph may
        hold it.

        Args:
            change: what changes a copy of the fields, ``(fields, copy) -> fields``.
        """
        batch = dict(inputs)
        index, columns = inputs["index"], batch.pop(COLUMNS, None)
        batch["label"] = self._labels[index]
        if NUMBERS in self.fields:
            every = torch.arange(len(self.views), device=self.device).expand(len(index), -1)
            batch[NUMBERS] = every if columns is None else columns
        for store in self._stores:
            if isinstance(store, Resident):
                batch |= store.take(index, columns)
        return self._copy(self._unpack(batch, columns), change)

    @property
    def waited(self) -> float:
        """Seconds in which the host had to wait for data, all told."""
        return sum(store.waited for store in self.__dict__.get("_stores", self._kept))

    def _keep(self, readers: Sequence[Reader]) -> Resident:
        split, workers = self.split, self.data.workers
        return Resident(readers, self.members, len(split), self.device, workers, split.name)

    @cached_property
    def _stores(self) -> list[Resident | Streamed]:
        """Where the fields come from; images are decoded when the first batch is asked for."""
        count, kept = len(self.members), sum(store.nbytes for store in self._kept)
        cache = self.data.cache_on_device
        stay, come = divide(self.images, count, self.device, cache, kept)
        stores = [*self._kept, *([self._keep(stay)] if stay else [])]
        if come := [*self._to_stream, *come]:
            stores.append(Streamed(come, count, self.device, self.data.workers))
        return stores

    def _unpack(self, batch: Batch, columns: Tensor | None) -> Batch:
        """From the forms in which fields are kept to those of the head of this file."""
        for name, stored in batch.items():
            if name in ("parts", "part_images"):
                rows = batch["label"].view(-1, *[1] * (stored.ndim - 1))
                batch[name] = self._part_table[rows, stored.long()]
            elif name == "visibility":
                seen = unpack_bits(stored, len(self.views))
                if columns is not None:
                    seen = seen.gather(2, columns.unsqueeze(1).expand(-1, seen.shape[1], -1))
                batch[name] = seen
            elif stored.dtype == torch.float16:
                batch[name] = stored.float()
        return batch

    def _copy(self, batch: Batch, change: Callable[[Batch, int], Batch] | None = None) -> Batch:
        """The fields that were asked for, those of each copy changed together."""
        result = {name: batch[name] for name in ALWAYS}
        for copy, names in self._copies.items():
            part = {base: batch[base] for base in (*ALWAYS, *names)}
            part = change(part, copy) if change else part
            result |= {name: part[base] for base, name in names.items()}
        return result


def sort_copies(fields: Set[str]) -> dict[int, dict[str, str]]:
    """Copy -> fields of it: the name without the copy's number -> the one that was asked for.

    Raises:
        ConfigError: a copy of what does not change.
    """
    copies: dict[int, dict[str, str]] = {}
    for name in sorted(fields):
        base, copy = split_copy(name)
        if copy and base not in CHANGED:
            raise ConfigError(
                f"{name} was asked for, and only what changes at random has copies: "
                f"{', '.join(CHANGED)}"
            )
        copies.setdefault(copy, {})[base] = name
    return copies


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """(..., ceil(count / 8)) uint8, lowest bit first -> (..., count) bool."""
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    bits = (packed.unsqueeze(-1) >> shifts) & 1
    return bits.flatten(-2)[..., :count].bool()
