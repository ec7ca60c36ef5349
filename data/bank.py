"""The bank of exported teacher knowledge: named arrays over all shapes of a set, with provenance.

HDF5 file. Dataset ``ids`` (S,) strings; every other one is an array of float16, (S, V, ...) where
its name begins with ``view_`` and (S, ...) otherwise, with an attribute ``signed``: whether any of
its values is below 0. Teachers of this project write ``view_codes`` (S, V, D), ``codes`` (S, D) and
where they know classes ``view_logits`` (S, V, K), ``logits`` (S, K); no labels. Attributes: format,
version and ``provenance``, a JSON object with the keys of :data:`PROVENANCE` at least; ``classes``
names those of the logits.

Version 1 had these four arrays and no ``signed``; its codes came out of a ReLU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.hdf5 import OpenedPerProcess, read_rows
from data.storage import PreparedSplit
from utils.errors import DataError
from utils.files import atomic_path

FORMAT = "multiview-distillation bank"
VERSION = 2
UNSIGNED = ("view_codes", "codes")  # of version 1
PROVENANCE = (
    "data_name",  # of the prepared set
    "data_hash",  # split name -> hash of its shapes
    "recipe_hash",  # of the cameras and the rendering
    "teacher_file",
    "teacher_hash",  # fingerprint of its weights
    "teacher_config",
    "commit",
)
CHECKED = 256  # shapes whose values are looked at at once


def per_view(name: str) -> bool:
    """Whether the array of this name has an axis of views."""
    return name.startswith("view_")


def write_bank(
    path: str | Path, ids: list[str], arrays: dict[str, np.ndarray], provenance: dict[str, Any]
) -> None:
    """Write a bank atomically; equal content gives equal bytes.

    Args:
        ids: (S,) shape ids.
        arrays: by name, an identifier: (S, V, ...) for names in ``view_``, (S, ...) for others.

    Raises:
        DataError: values that are not finite, also in float16; nothing is written.
        ValueError: a name or a shape that no bank can have.
    """
    for name, array in arrays.items():
        if not name.isidentifier() or name == "ids" or array.ndim < 1 + per_view(name):
            raise ValueError(f"a bank has no place for {name!r} {array.shape}")
        if len(array) != len(ids):
            raise ValueError(f"{name} has {len(array)} rows for {len(ids)} ids")
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise DataError(
            f"{', '.join(broken)} of the teacher are not finite as float16: train it again or, for "
            "a network of timm, export with --precision float32"
        )
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        file.create_dataset("ids", data=ids, dtype=h5py.string_dtype())
        for name, array in arrays.items():
            file.create_dataset(name, data=array).attrs["signed"] = bool((array < 0).any())


class Bank(OpenedPerProcess):
    """An exported bank on disk: ids and provenance are read at once, rows when asked for.

    The file is opened once per process, on first use, so an instance may be handed to the worker
    processes of a loader by fork or by pickle.

    Attributes:
        ids: S strings. provenance: see the head of this file. names: of the arrays, sorted.

    Raises:
        DataError: missing, damaged, not a bank, or of a newer version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"no bank at {path}; run export_teacher.py on a teacher checkpoint")
        try:
            with h5py.File(self.path, "r") as file:
                self._read_header(file)
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise DataError(
                f"{path} is damaged or no bank of export_teacher.py ({error}); export it again"
            ) from error
        self.names = sorted(self._arrays)
        self._row = {name: row for row, name in enumerate(self.ids)}

    def _read_header(self, file: h5py.File) -> None:
        if file.attrs.get("format") != FORMAT:
            raise DataError(f"{self.path} is not a bank of export_teacher.py")
        version = file.attrs["version"]
        if version not in (1, VERSION):
            raise DataError(
                f"{self.path} has version {version}, expected up to {VERSION}; export it again"
            )
        self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
        given = self.provenance if isinstance(self.provenance, dict) else {}
        absent = [key for key in PROVENANCE if key not in given]
        if absent or not isinstance(given["data_hash"], dict):
            lost = ", ".join(absent) or "the hash of each split"
            raise DataError(f"{self.path}: its provenance lacks {lost}; export it again")
        self.ids = [name.decode() for name in file["ids"][()]]
        self._arrays: dict[str, tuple[tuple[int, ...], bool]] = {}  # shape of a row, signed
        for name in file.keys() - {"ids"}:
            array = file[name]
            axes = 1 + per_view(name)
            if array.dtype != np.float16 or array.ndim < axes or len(array) != len(self.ids):
                raise DataError(
                    f"{self.path}: {name} is {array.dtype} {array.shape}, expected float16 of "
                    f"{axes} axes or more for {len(self.ids)} shapes; export it again"
                )
            signed = name not in UNSIGNED if version == 1 else bool(array.attrs["signed"])
            self._arrays[name] = array.shape[1:], signed
        if not self._arrays:
            raise DataError(f"{self.path} holds ids and no array; export it again")

    @property
    def identity(self) -> str:
        """Which teacher this is of, and how it looked at the views where that was a choice."""
        made = self.provenance["teacher_config"]
        how = f", {made['size']} pixels, {made['precision']}" if "timm" in made else ""
        return self.provenance["teacher_hash"] + how

    def label(self) -> list[str]:
        """Whose codes these are, in words, where no training of this project made the teacher."""
        made, weights = self.provenance["teacher_config"], self.provenance["teacher_file"]
        return [f"codes of {made['timm']} ({weights}, {made['size']} px)"] if "timm" in made else []

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one shape's entry: (V, ...) or (...).

        Raises:
            DataError: there is no such array, here and below.
        """
        if name not in self._arrays:
            raise DataError(f"{self.path} holds no {name}, it has {', '.join(self.names)}")
        return self._arrays[name][0]

    def dtype(self, name: str) -> np.dtype:
        self.shape(name)
        return np.dtype(np.float16)

    def signed(self, name: str) -> bool:
        """Whether any value may be below 0."""
        self.shape(name)
        return self._arrays[name][1]

    def locate(self, ids: list[str]) -> np.ndarray:
        """The rows of these shapes, (len(ids),) int64.

        Raises:
            DataError: the bank lacks some of them.
        """
        absent = [name for name in ids if name not in self._row]
        if absent:
            raise DataError(
                f"{self.path} lacks {len(absent)} of {len(ids)} shapes, such as {absent[0]}; "
                "export the teacher again on this set, with --overwrite"
            )
        return np.array([self._row[name] for name in ids], dtype=np.int64)

    def read(self, name: str, rows: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """(len(rows), ...) float16 in the order of ``rows``, which may repeat.

        Args:
            rows: (R,) of :meth:`locate`. views: columns of the axis of views; None: all.

        Raises:
            DataError: values that are not finite, or a file that has been damaged since.
        """
        self.shape(name)
        try:
            found = read_rows(self._file[name], rows)
        except (OSError, KeyError) as error:
            raise DataError(f"{self.path} cannot be read ({error}); export it again") from error
        found = found if views is None else found[:, views]
        self._refuse_broken(name, found, rows)
        return found

    def _refuse_broken(self, name: str, found: np.ndarray, rows: np.ndarray) -> None:
        for begin in range(0, len(found), CHECKED):
            finite = np.isfinite(found[begin : begin + CHECKED])
            whole = finite.all(axis=tuple(range(1, found.ndim)))  # (rows of this piece,)
            if not whole.all():
                shape_id = self.ids[rows[begin + whole.argmin()]]
                raise DataError(f"{self.path}: {name} of {shape_id} is not finite; export it again")

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
        counts = {self.shape(name)[0] for name in self.names if per_view(name)}
        for views in sorted(counts - {split.num_views}):
            differing.append(f"{views} views, expected {split.num_views}")
        absent = [name for name in split.ids if name not in self._row]
        if absent:
            differing.append(f"{len(absent)} shapes without codes, such as {absent[0]}")
        if differing:
            raise DataError(
                f"the bank {self.path} does not fit data {split.name}: {'; '.join(differing)}. "
                "Export the teacher again on this set, with --overwrite"
            )

    def check_classes(self, split: PreparedSplit) -> None:
        """Refuse logits over other classes than those of a split.

        Raises:
            DataError: naming the first classes of both. Banks that do not name theirs pass.
        """
        known = self.provenance.get("classes", split.class_names)
        if known != split.class_names:
            raise DataError(
                f"the logits of {self.path} are of {len(known)} classes ({', '.join(known[:3])}, "
                f"...), {split.name} has {len(split.class_names)} "
                f"({', '.join(split.class_names[:3])}, ...): take a teacher of these classes, or "
                "set terms.logits.weight=0"
            )
