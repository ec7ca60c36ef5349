"""Where the images of a batch come from: from the memory of the device, or from a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.batches import move_batches
from data.storage import PreparedSplit
from utils.device import free_memory
from utils.distributed import is_main
from utils.errors import ConfigError
from utils.machine import local_cores
from utils.progress import Progress

Images = dict[str, Tensor]
RESIDENT_SHARE = 0.5  # of the free memory; the rest is for the network and what else the user runs
FEW_IMAGES = 2000  # are decoded sooner than processes that would decode them start
FILL_BATCH = 16  # shapes


def resident_bytes(reader: ViewReader, shapes: int) -> int:
    """What the images of so many shapes take, decoded."""
    return shapes * sum(array.nbytes for array in reader[0, None].values())


def fits(reader: ViewReader, shapes: int, device: torch.device) -> bool:
    """Whether the images of so many shapes take no more than half of the device's free memory."""
    return resident_bytes(reader, shapes) <= RESIDENT_SHARE * free_memory(device)


class ResidentViews:
    """All images of some shapes as one uint8 tensor per field, (S, V, ...), on the device.

    Args:
        members: the shapes, indices into the split.
        workers: processes that decode, once; see :class:`data.datasets.ViewSet`.

    Raises:
        ConfigError: they take more memory than is free.
    """

    def __init__(
        self, reader: ViewReader, members: np.ndarray, workers: int | None, device: torch.device
    ):
        self.device = device
        place = torch.zeros(len(reader), dtype=torch.int64)
        place[torch.from_numpy(members)] = torch.arange(len(members))
        self.place = place.to(device)
        needed, free = resident_bytes(reader, len(members)), free_memory(device)
        if needed > free:
            raise ConfigError(
                f"data.cache_on_device=true needs {needed / 1e9:.1f} GB for {len(members)} shapes "
                f"of {reader.split.path}, found {free / 1e9:.1f} GB free on {device}: use auto or "
                "false, or a smaller data.size"
            )
        self.arrays: Images = {
            name: torch.empty((len(members), *array.shape), dtype=torch.uint8, device=device)
            for name, array in reader[0, None].items()
        }
        self._fill(DecodedViews(reader, members, workers, device), reader.split.name, members)

    def _fill(self, decoded: DecodedViews, name: str, members: np.ndarray) -> None:
        groups = torch.from_numpy(members).split(FILL_BATCH)
        begin = 0
        with Progress(len(members), f"{name}, shapes decoded", shown=is_main()) as progress:
            for images in decoded.batches(groups):
                for field, stack in images.items():
                    count = len(stack)
                    self.arrays[field][begin : begin + count] = stack
                begin += count
                progress.update(count)

    def batches(
        self, batches: Sequence[Tensor], views: Sequence[Tensor] | None = None
    ) -> Iterator[Images]:
        """The images of these shapes, (B,) each, all views or those of ``views``, (B, n) each."""
        chosen = [None] * len(batches) if views is None else views.to(self.device)
        for index, columns in zip(move_batches(batches, self.device), chosen, strict=True):
            rows = self.place[index]
            picked = rows if columns is None else (rows.unsqueeze(1), columns)
            yield {name: array[picked] for name, array in self.arrays.items()}


class DecodedViews:
    """Images decoded when they are asked for, by processes that stay from epoch to epoch.

    The processes work ahead of the training, into pinned memory where the device is a GPU. From
    there a stream of its own copies a batch while the step before it computes.
    """

    def __init__(
        self, reader: ViewReader, members: np.ndarray, workers: int | None, device: torch.device
    ):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if workers is None:
            few = len(members) * reader.split.num_views < FEW_IMAGES
            workers = 0 if few else local_cores()
        self.order: list[list[tuple[int, list[int] | None]]] = []  # what to decode, batch by batch
        self.loader = DataLoader(
            reader,
            batch_sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_stack,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it draws a number, which must not be the training's
        )

    def batches(
        self, batches: Sequence[Tensor], views: Sequence[Tensor] | None = None
    ) -> Iterator[Images]:
        """As :meth:`ResidentViews.batches`."""
        chosen = [[None] * len(index) for index in batches]
        if views is not None:
            chosen = [rows.tolist() for rows in views]
        self.order[:] = [
            list(zip(index.tolist(), rows, strict=True))
            for index, rows in zip(batches, chosen, strict=True)
        ]
        for images in self.loader:
            yield images if self.stream is None else self._copy(images)

    def _copy(self, images: Images) -> Images:
        here = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            copied = {n: stack.to(self.device, non_blocking=True) for n, stack in images.items()}
        here.wait_stream(self.stream)
        for stack in copied.values():
            stack.record_stream(here)  # its memory is not used again before the step is done
        return copied


def _stack(samples: list[dict[str, np.ndarray]]) -> Images:
    return {
        name: torch.from_numpy(np.stack([sample[name] for sample in samples]))
        for name in samples[0]
    }


FIELDS = ("views", "part_images")


class ViewReader(Dataset):
    """The images of a shape by (index, chosen views or None for all), as a dict of uint8 arrays.

    ``views`` (n, C, H, W), C = 1 or 3, and if asked for ``part_images`` (n, H, W) with the stored
    part numbers of ``data.parts``.

    Args:
        size: side in pixels to resize to, None to keep the stored size. Label images take the
            nearest pixel, so that no part appears that is not there.
        fields: of ``FIELDS``; the views always come.

    Raises:
        ConfigError: a field that is not here.
        DataError: label images asked for and the set has none.
    """

    def __init__(self, split: PreparedSplit, size: int | None, fields: Sequence[str] = ()):
        unknown = set(fields) - {*FIELDS, "label", "index"}
        if unknown:
            raise ConfigError(f"a set of views has no {sorted(unknown)}, which the method reads")
        self.split = split
        self.size = split.image_size if size is None else size
        self.with_parts = "part_images" in fields
        if self.with_parts:
            split.check_part_images()

    def __len__(self) -> int:
        return len(self.split.ids)

    def __getitem__(self, item: tuple[int, list[int] | None]) -> dict[str, np.ndarray]:
        index, chosen = item
        views = self._resize(self.split.views(index, chosen), Image.Resampling.BILINEAR)
        views = views[:, None] if views.ndim == 3 else views.transpose(0, 3, 1, 2)
        images = {"views": np.ascontiguousarray(views)}
        if self.with_parts:
            parts = self.split.part_images(index, chosen)
            images["part_images"] = self._resize(parts, Image.Resampling.NEAREST)
        return images

    def _resize(self, images: np.ndarray, how: Image.Resampling) -> np.ndarray:
        if images.shape[1] == self.size:
            return images
        side = (self.size, self.size)
        return np.stack([np.asarray(Image.fromarray(image).resize(side, how)) for image in images])
