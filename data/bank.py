"""The bank of exported teacher knowledge: codes and logits of every shape, with provenance.

HDF5 file. Datasets: ``ids`` (S,) strings, ``view_codes`` (S, V, D), ``codes`` (S, D) and, of a
classification teacher, ``view_logits`` (S, V, K), ``logits`` (S, K), all float16; no labels.
Attribute ``provenance``: a JSON object with the keys of :data:`PROVENANCE`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.storage import PreparedSplit
from utils.errors import DataError
from utils.files import atomic_path

FORMAT = "multiview-distillation bank"
VERSION = 1
CODES = ("view_codes", "codes")
LOGITS = ("view_logits", "logits")  # of teachers that know classes
PROVENANCE = (
    "data_name",  # of the prepared set
    "data_hash",  # split name -> hash of its shapes
    "recipe_hash",  # of the cameras and the rendering
    "teacher_file",
    "teacher_hash",  # fingerprint of its weights
    "teacher_config",
    "commit",
)


def write_bank(
    path: str | Path, ids: list[str], arrays: dict[str, np.ndarray], provenance: dict[str, Any]
) -> None:
    """Write a bank atomically; equal content gives equal bytes.

    Args:
        ids: (S,) shape ids.
        arrays: those of ``CODES`` and, if the teacher has them, of ``LOGITS``; first axis S.

    Raises:
        DataError: values that are not finite, also in float16; nothing is written.
    """
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise DataError(f"{', '.join(broken)} of the teacher are not finite: train it again")
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        file.create_dataset("ids", data=ids, dtype=h5py.string_dtype())
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


class Bank:
    """An exported bank, read whole.

    Raises:
        DataError: missing, damaged, not a bank, or with values that are not finite.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"no bank at {path}; run export_teacher.py on a teacher checkpoint")
        try:
            with h5py.File(self.path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise DataError(f"{path} is not a bank of export_teacher.py")
                if file.attrs["version"] != VERSION:
                    raise DataError(
                        f"{path} has version {file.attrs['version']}, expected {VERSION}; export "
                        "it again"
                    )
                self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
                self.ids = [name.decode() for name in file["ids"][()]]
                held = [*CODES, *(name for name in LOGITS if name in file)]
                self.arrays = {name: file[name][()] for name in held}
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise DataError(
                f"{path} is damaged or no bank of export_teacher.py ({error}); export it again"
            ) from error
        self._check_content()
        self._row = {name: row for row, name in enumerate(self.ids)}

    def _check_content(self) -> None:
        given = self.provenance if isinstance(self.provenance, dict) else {}
        absent = [key for key in PROVENANCE if key not in given]
        if absent or not isinstance(given["data_hash"], dict):
            lost = ", ".join(absent) or "the hash of each split"
            raise DataError(f"{self.path}: its provenance lacks {lost}; export it again")
        for name, array in self.arrays.items():
            axes = 3 if name.startswith("view_") else 2
            if array.dtype != np.float16 or array.ndim != axes or len(array) != len(self.ids):
                raise DataError(
                    f"{self.path}: {name} is {array.dtype} {array.shape}, expected float16 of "
                    f"{axes} axes for {len(self.ids)} shapes; export it again"
                )
            broken = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
            if len(broken):
                raise DataError(
                    f"{self.path}: {name} of {self.ids[broken[0]]} is not finite; export it again"
                )

    def check(self, split: PreparedSplit) -> None:
        """Refuse to serve a split whose shapes, cameras or rendering the teacher did not see.

        Raises:
            DataError: naming everything that differs.
        """
        given = self.provenance
        differing = []
        if given["data_name"] != split.name:
            differing.append(f"data set {given['data_name']!r}, expected {split.name!r}")
        if given["recipe_hash"] != split.recipe_hash:
            differing.append(f"view recipe {given['recipe_hash']}, expected {split.recipe_hash}")
        shapes = given["data_hash"].get(split.split)
        if shapes != split.data_hash:
            differing.append(f"{split.split} shapes {shapes}, expected {split.data_hash}")
        views = self.arrays["view_codes"].shape[1]
        if views != split.num_views:
            differing.append(f"{views} views, expected {split.num_views}")
        absent = [name for name in split.ids if name not in self._row]
        if absent:
            differing.append(f"{len(absent)} shapes without codes, such as {absent[0]}")
        if differing:
            raise DataError(
                f"the bank {self.path} does not fit data {split.name}: {'; '.join(differing)}. "
                "Export the teacher again on this set, with --overwrite"
            )

    @property
    def names(self) -> list[str]:
        return list(self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one shape's entry."""
        return self.arrays[name].shape[1:]

    def dtype(self, name: str) -> np.dtype:
        return self.arrays[name].dtype

    def signed(self, name: str) -> bool:
        """Whether a value is below 0."""
        return bool((self.arrays[name] < 0).any())

    def locate(self, ids: list[str]) -> np.ndarray:
        """The rows (len(ids),) int64 of these shapes."""
        return np.array([self._row[name] for name in ids], np.int64)

    def read(self, name: str, rows: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """(len(rows), ...) float16, in that order; ``views``: of the view axis, these."""
        found = self.arrays[name][rows]
        return found if views is None else found[:, views]

    def view_codes(self, ids: list[str]) -> np.ndarray:
        """(len(ids), V, D) float16, in the order of ``ids``."""
        return self.arrays["view_codes"][self._rows(ids)]

    def codes(self, ids: list[str]) -> np.ndarray:
        """(len(ids), D) float16, of the whole shapes, in the order of ``ids``."""
        return self.arrays["codes"][self._rows(ids)]

    def _rows(self, ids: list[str]) -> list[int]:
        return [self._row[name] for name in ids]
