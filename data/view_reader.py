"""Decoding views and label images, in this process or in those of a loader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from data.storage import PreparedSplit
from utils.errors import ConfigError

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
