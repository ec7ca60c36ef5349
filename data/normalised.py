"""Codes of a bank shifted and scaled to one size, channel by channel.

A frozen network gives features of both signs, and some of its channels are a hundred times as large
as others: without this, a distance between codes is that of a few channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.bank import Bank, per_view
from utils.fields import holds_codes

CHUNK = 256  # shapes that are measured at once


class NormalisedBank(Bank):
    """A bank whose arrays of codes have mean 0 and deviation 1 in every channel, over some of its
    shapes and all the views that are used. Logits are as they were.

    Args:
        path: of the bank. names: arrays to be read. rows: (R,) places of the shapes to measure,
            those of training. views: (V,) columns of arrays ``view_*`` that are used.

    Attributes:
        scales: array -> mean and deviation of its channels, (D,) float32 each. A channel that never
            changes has deviation 1. ``provenance["normalised"]`` has the same as plain numbers, for
            the checkpoint of who learns from these codes.
    """

    def __init__(self, path: Path, names: Iterable[str], rows: np.ndarray, views: np.ndarray):
        super().__init__(path)
        self.scales: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in filter(holds_codes, names):
            self.scales[name] = self._measure(name, rows, views if per_view(name) else None)
        self.provenance["normalised"] = {
            name: {"mean": mean.tolist(), "deviation": deviation.tolist()}
            for name, (mean, deviation) in self.scales.items()
        }

    def _measure(
        self, name: str, rows: np.ndarray, views: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """In float64, chunk after chunk: mean and sum of squares around it (Chan et al., 1979)."""
        count, mean, squares = 0, 0.0, 0.0
        for begin in range(0, len(rows), CHUNK):
            found = super().read(name, rows[begin : begin + CHUNK], views)
            found = found.reshape(-1, found.shape[-1]).astype(np.float64)
            own, more = found.mean(axis=0), len(found)
            away = own - mean
            squares += np.square(found - own).sum(axis=0)
            squares += np.square(away) * (count * more / (count + more))
            mean += away * (more / (count + more))
            count += more
        deviation = np.sqrt(squares / count)
        return np.float32(mean), np.float32(np.where(deviation > 0, deviation, 1.0))

    @property
    def identity(self) -> str:
        return f"{super().identity}, normalised"

    def signed(self, name: str) -> bool:
        return name in self.scales or super().signed(name)

    def read(self, name: str, rows: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        found = super().read(name, rows, views)
        if name not in self.scales:
            return found
        mean, deviation = self.scales[name]
        return ((found - mean) / deviation).astype(np.float16)
