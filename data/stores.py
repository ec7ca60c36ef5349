"""Where the fields of a batch come from: kept on the device, or read ahead of the training.

A reader tells what it reads of one shape. What takes no more than half of the free memory of the
device stays there (:func:`divide`); the rest is read when it is needed. The batches are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from utils.device import free_memory
from utils.distributed import is_main
from utils.errors import ConfigError, UserError
from utils.machine import local_cores
from utils.progress import Progress

Fields = dict[str, Tensor]
Item = tuple[np.ndarray, np.ndarray | None]  # shapes (B,) and, if only some, their views (B, n)

RESIDENT_SHARE = 0.5  # of the free memory; the rest is for the network and what else the user runs
FEW_IMAGES = 2000  # are decoded sooner than processes that would decode them start
FEW_BYTES = 2**28  # likewise, of arrays, which are only copied
ARRAY_WORKERS = 4  # are ahead of any training where nothing is decoded
FILL_BYTES = 2**24  # that are read at a time to be kept


@dataclass(frozen=True)
class Reader:
    """Reads one field of some shapes, in the form in which it is kept and moved.

    ``shape`` and ``dtype``: of one shape's entry in that form. ``source``: from shape indices (B,)
    to an array (B, *shape); it may be sent to another process. ``by_view``: the first axis of
    ``shape`` are the views.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    source: Callable[[np.ndarray], np.ndarray]
    by_view: bool = False
    decodes = False  # rather than copies: worth a core of its own

    @property
    def nbytes(self) -> int:
        """Of one shape."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def read(self, index: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """(B, *shape), with ``views`` (B, n) only these views of each shape."""
        found = self.source(index)
        if views is None or not self.by_view:
            return found
        return found[np.arange(len(index))[:, None], views]


def divide(
    readers: Sequence[Reader],
    shapes: int,
    device: torch.device,
    cache: Literal["auto"] | bool,
    kept: int = 0,
) -> tuple[list[Reader], list[Reader]]:
    """What stays on the device, and what is read by batch.

    Args:
        cache: ``data.cache_on_device``; ``auto``: the smallest fields first, as long as all that
            is kept takes no more than half of the memory that was free before.
        kept: bytes that are kept already, which count.

    Raises:
        ConfigError: everything is to stay and does not fit.
    """
    if cache is False or not readers:
        return [], list(readers)
    free = free_memory(device)
    needed = shapes * sum(reader.nbytes for reader in readers)
    if cache is True:
        if needed > free:
            names = ", ".join(reader.name for reader in readers)
            raise ConfigError(
                f"data.cache_on_device=true needs {needed / 1e9:.1f} GB for {names} of {shapes} "
                f"shapes, found {free / 1e9:.1f} GB free on {device}: use auto or false"
            )
        return list(readers), []
    room = RESIDENT_SHARE * (free + kept) - kept
    stay, come = [], []
    for reader in sorted(readers, key=lambda reader: reader.nbytes):
        room -= shapes * reader.nbytes
        (stay if room >= 0 else come).append(reader)
    return stay, come


class Resident:
    """All entries of some shapes on the device, one tensor (S, ...) per field.

    Args:
        members: the shapes, indices into the split of ``total`` shapes. what: their name, for the
            display of progress. workers: processes that decode, once; None: one per core.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        members: np.ndarray,
        total: int,
        device: torch.device,
        workers: int | None,
        what: str,
    ):
        self.device = device
        self.place = torch.full((total,), len(members))  # out of range for all others
        self.place[torch.from_numpy(members)] = torch.arange(len(members))
        self.place = self.place.to(device)
        self.by_view = {reader.name: reader.by_view for reader in readers}
        self.nbytes = len(members) * sum(reader.nbytes for reader in readers)
        self.arrays = {
            reader.name: torch.empty(
                (len(members), *reader.shape),
                dtype=torch.from_numpy(np.empty(0, reader.dtype)).dtype,
                device=device,
            )
            for reader in readers
        }
        decodes = any(reader.decodes for reader in readers)
        source = Streamed(readers, len(members), device, workers if decodes else 0)
        at_once = max(1, FILL_BYTES // sum(reader.nbytes for reader in readers))
        groups = torch.from_numpy(members).split(at_once)
        begin = 0
        with Progress(len(members), f"{what}, shapes read", shown=is_main()) as progress:
            for group, found in zip(groups, source.batches(groups), strict=True):
                for name, rows in found.items():
                    self.arrays[name][begin : begin + len(group)] = rows
                begin += len(group)
                progress.update(len(group))

        self.waited = source.waited

    def take(self, index: Tensor, views: Tensor | None = None) -> Fields:
        """The entries of these shapes, (B,), with all views or those of ``views`` (B, n), both on
        the device; nothing waits for the host."""
        rows = self.place[index]
        some = rows if views is None else (rows.unsqueeze(1), views)
        return {
            name: array[some if self.by_view[name] else rows] for name, array in self.arrays.items()
        }


class Streamed:
    """Entries read when they are asked for, by processes that stay from epoch to epoch.

    The processes work ahead of the training, into pinned memory where the device is a GPU. From
    there a stream of its own copies a batch while the step before it computes.

    Args:
        shapes: how many there are to read. workers: processes that read; None: one per core, or a
            few that only copy, or none beside this one where that takes longer; 0: none.

    Attributes:
        waited: seconds in which the host had to wait for entries, all told. What it only asks a
            GPU to do, it does not wait for, unless too much was asked already, which is no wait for
            data: the clock stands still then.
    """

    def __init__(
        self, readers: Sequence[Reader], shapes: int, device: torch.device, workers: int | None
    ):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        workers = _count_workers(readers, shapes) if workers is None else workers
        self.waited = 0.0
        self.order: list[Item] = []  # what to read, batch by batch
        self.loader = DataLoader(
            _Batches(readers),
            batch_size=None,  # an item is a batch already
            sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it draws a number, which must not be the training's
        )

    def batches(self, batches: Sequence[Tensor], views: Tensor | None = None) -> Iterator[Fields]:
        """The entries of these shapes, (B,) each, with all views or those of ``views``, a batch's
        (B, n) each. Both are given in host memory, the entries lie on the device."""
        chosen = [None] * len(batches) if views is None else views.numpy()
        self.order[:] = zip((index.numpy() for index in batches), chosen, strict=True)
        begin = time.perf_counter()
        read = iter(self.loader)
        while True:
            found = next(read, None)
            self.waited += time.perf_counter() - begin
            if found is None:
                return
            if isinstance(found, UserError):
                raise found
            yield found if self.stream is None else self._copy(found)
            begin = time.perf_counter()

    def _copy(self, fields: Fields) -> Fields:
        here = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            copied = {n: rows.to(self.device, non_blocking=True) for n, rows in fields.items()}
        here.wait_stream(self.stream)
        for rows in copied.values():
            rows.record_stream(here)  # its memory is not used again before the step is done
        return copied


def _count_workers(readers: Sequence[Reader], shapes: int) -> int:
    images = shapes * max((reader.shape[0] for reader in readers if reader.decodes), default=0)
    if images:
        return local_cores() if images >= FEW_IMAGES else 0
    few = shapes * sum(reader.nbytes for reader in readers) < FEW_BYTES
    return 0 if few else min(ARRAY_WORKERS, local_cores())


def _as_it_is(batch: Fields | UserError) -> Fields | UserError:
    return batch


class _Batches(Dataset):
    """Batches by their shapes and views, or the error of ours that reading them meets: raised in a
    worker, it would arrive with the worker's traceback for its text."""

    def __init__(self, readers: Sequence[Reader]):
        self.readers = readers

    def __getitem__(self, item: Item) -> Fields | UserError:
        try:
            found = {reader.name: reader.read(*item) for reader in self.readers}
        except UserError as error:
            return error
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in found.items()}
