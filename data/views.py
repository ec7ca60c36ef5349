"""Readers of a split's views and of the label images that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.storage import PreparedSplit
from data.stores import Reader


@dataclass(frozen=True)
class ImageReader(Reader):
    """Decodes the views of every shape, or the label images with stored part numbers, as uint8:
    (V, C, H, W) with C = 1 (grey) or 3, or (V, H, W).

    ``source``: ``views`` or ``part_images`` of a split. ``chosen``: (V,), which of its views.
    Images of another size than ``shape`` are resized; label images take the nearest pixel, so that
    no part appears that is not there.
    """

    chosen: np.ndarray = None
    by_view: bool = True
    decodes = True

    def read(self, index: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        if views is None:
            views = np.broadcast_to(np.arange(len(self.chosen)), (len(index), len(self.chosen)))
        found = np.empty((*views.shape, *self.shape[1:]), np.uint8)
        for row, (shape, picked) in enumerate(zip(index.tolist(), views, strict=True)):
            images = self._resize(self.source(shape, self.chosen[picked].tolist()))
            if self.name == "views":
                images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
            found[row] = images
        return found

    def _resize(self, images: np.ndarray) -> np.ndarray:
        size = self.shape[-1]
        if images.shape[1] == size:
            return images
        how = Image.Resampling.BILINEAR if self.name == "views" else Image.Resampling.NEAREST
        return np.stack([np.asarray(Image.fromarray(i).resize((size, size), how)) for i in images])


def view_reader(split: PreparedSplit, chosen: np.ndarray, size: int | None) -> ImageReader:
    """``views`` of a split, ``chosen`` ones, resized to a side of ``size`` pixels if given."""
    size = split.image_size if size is None else size
    channels = 1 if split.views(0, [0]).ndim == 3 else 3
    shape = (len(chosen), channels, size, size)
    return ImageReader("views", shape, np.dtype(np.uint8), split.views, chosen=chosen)


def part_image_reader(split: PreparedSplit, chosen: np.ndarray, size: int | None) -> ImageReader:
    """``part_images`` of a split, likewise.

    Raises:
        DataError: the set has none.
    """
    split.check_part_images()
    size = split.image_size if size is None else size
    shape = (len(chosen), size, size)
    return ImageReader("part_images", shape, np.dtype(np.uint8), split.part_images, chosen=chosen)
