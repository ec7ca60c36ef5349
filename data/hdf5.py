"""Arrays in HDF5 files, read by rows, in whatever process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

DENSE = 2  # times as many rows in one read cost less than reads of their own


class OpenedPerProcess:
    """An HDF5 file that every process opens for itself, on first use: HDF5 gives no promise for a
    handle that came through a fork, and none for one that is pickled."""

    path: Path
    _handle: h5py.File | None = None
    _owner = 0

    @property
    def _file(self) -> h5py.File:
        if self._handle is None or self._owner != os.getpid():
            self._handle = h5py.File(self.path, "r")
            self._owner = os.getpid()
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}


def read_rows(
    dataset: h5py.Dataset, rows: np.ndarray | None, count: int | None = None
) -> np.ndarray:
    """Entries ``rows`` (R,) of the first axis, in that order and as often; None: all.

    ``count``: of the second axis, only the first so many.
    """
    rest = () if count is None else (slice(count),)
    if rows is None:
        return dataset[(slice(None), *rest)]
    if len(rows) == 0:
        return dataset[(slice(0), *rest)]
    low, high = int(rows.min()), int(rows.max()) + 1
    if high - low <= DENSE * len(rows):
        return dataset[(slice(low, high), *rest)][rows - low]
    return np.stack([dataset[(row, *rest)] for row in rows.tolist()])
