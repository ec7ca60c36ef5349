"""Sources that pack many clouds into HDF5 files, a row per cloud, as several data sets do.

Every row is checked before anything is prepared, because a packed file with one bad row is a
damaged download and no collection with one bad shape.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import h5py
import numpy as np

from data.geometry.clouds import FEWEST_POINTS
from data.sources.cloud_files import Cloud, CloudFile, SourceError
from data.sources.folders import Source
from utils.errors import DataError

_SLAB = 256  # rows in memory at once


@dataclass(frozen=True)
class PackedFile:
    """A checked file: (R,) int64 labels, a digest of each row's content, points in every row."""

    labels: np.ndarray
    digests: list[str]
    num_points: int


def find_packed(files: dict[str, list[Path]], class_names: list[str]) -> Source:
    """The clouds of packed files, by split, whose labels are places in ``class_names``.

    Raises:
        DataError: see :func:`check_packed`; two rows of one id, or files whose clouds have
            different numbers of points.
    """
    shapes: list[CloudFile] = []
    seen: dict[str, str] = {}  # id -> where
    counts: dict[int, Path] = {}  # points -> a file with as many
    for split, paths in files.items():
        for path in paths:
            packed = check_packed(path, len(class_names))
            counts.setdefault(packed.num_points, path)
            stems = _read_stems(path, len(packed.labels))
            for row, label in enumerate(packed.labels.tolist()):
                name = class_names[label]
                shape_id, place = f"{name}/{split}/{stems[row]}", f"{path.name} row {row}"
                if shape_id in seen:
                    raise DataError(
                        f"{path} row {row} is named {shape_id}, as {seen[shape_id]} is: is a file "
                        "listed twice? Without its id2file.json, rows are named by their numbers"
                    )
                seen[shape_id] = place
                shapes.append(
                    CloudFile(
                        shape_id, path, name, split, read_row, row=row, digest=packed.digests[row]
                    )
                )
    if len(counts) > 1:
        found = ", ".join(f"{count} a row in {path.name}" for count, path in counts.items())
        raise DataError(f"{paths[0].parent} mixes numbers of points: {found}")
    shapes.sort(key=lambda shape: shape.id)
    return Source(shapes, class_names, [], True, num_points=next(iter(counts)))


def _read_stems(path: Path, rows: int) -> list[str]:
    """A name for each row of a packed file, from the list beside it if there is one."""
    match = re.fullmatch(r"(.*?)(\d+)", path.stem)
    ids = path.with_name(f"{match[1]}_{match[2]}_id2file.json") if match else None
    if ids is None or not ids.is_file():
        return [f"{path.stem}_{row:05d}" for row in range(rows)]
    try:
        names = json.loads(ids.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{ids} is no readable list of names ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{ids} is no list of names")
    if len(names) != rows:
        raise DataError(f"{ids} has {len(names)} names for the {rows} rows of {path.name}")
    return [PureWindowsPath(name).stem for name in names]


def check_packed(path: Path, num_classes: int) -> PackedFile:
    """Read all of a packed file once: data (R, N, 3) floats, label (R,) or (R, 1), maybe normal.

    Raises:
        DataError: missing, truncated, a missing key, a wrong type or shape, too few points, a label
            out of range, values that are not finite, a cloud in one place. It names file and row.
    """
    if not path.is_file():
        raise DataError(f"no file {path}: is the download complete?")
    try:
        with h5py.File(path, "r") as file:
            labels = _check_labels(path, file, num_classes)
            names = ("data", "normal") if "normal" in file else ("data",)
            for name in names:
                _check_array(path, file, name, len(labels))
            digests: list[str] = []
            for begin in range(0, len(labels), _SLAB):
                slabs = [file[name][begin : begin + _SLAB] for name in names]
                _check_slab(path, slabs, begin)
                digests += [_digest(rows) for rows in zip(*slabs, strict=True)]
            return PackedFile(labels, digests, file["data"].shape[1])
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} is truncated or no HDF5 file ({error})") from error


def _digest(rows: tuple[np.ndarray, ...]) -> str:
    content = b"".join(np.ascontiguousarray(row).tobytes() for row in rows)
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _check_labels(path: Path, file: h5py.File, num_classes: int) -> np.ndarray:
    for name in ("data", "label", *({"normal"} & file.keys())):
        if not isinstance(file.get(name), h5py.Dataset):
            raise DataError(f"{path} has no array {name!r}, only {', '.join(file) or 'nothing'}")
    stored = file["label"]
    rows = stored.shape[0] if stored.ndim else 0
    if stored.dtype.kind not in "iuf" or stored.shape not in ((rows,), (rows, 1)) or not rows:
        raise DataError(
            f"{path}: label is {stored.dtype} {stored.shape}, expected whole numbers (R,) or (R, 1)"
        )
    labels = stored[()].reshape(-1)
    # not (0 <= label < K), in this form, is true of NaN too
    wrong = np.flatnonzero(~((labels >= 0) & (labels < num_classes)) | (labels != np.rint(labels)))
    if len(wrong):
        raise DataError(
            f"{path} row {wrong[0]}: label {labels[wrong[0]]}, expected 0 to {num_classes - 1}"
        )
    return labels.astype(np.int64)


def _check_array(path: Path, file: h5py.File, name: str, rows: int) -> None:
    array = file[name]
    expected = (rows, *(file["data"].shape or ())[1:2], 3)  # an empty dataset's shape is None
    if array.dtype.kind != "f" or array.shape != expected:
        raise DataError(
            f"{path}: {name} is {array.dtype} {array.shape}, expected floats ({rows}, N, 3): x, y, "
            f"z of N points for each of the {rows} labels"
        )
    if array.shape[1] < FEWEST_POINTS:
        found = f"{array.shape[1]} points per row"
        raise DataError(f"{path}: {found}, expected {FEWEST_POINTS} or more")


def _check_slab(path: Path, slabs: list[np.ndarray], begin: int) -> None:
    """Args: slabs: points (R, N, 3), perhaps normals (R, N, 3). begin: number of the first row."""
    for slab in slabs:
        broken = np.flatnonzero(~np.isfinite(slab).all(axis=(1, 2)))
        if len(broken):
            raise DataError(f"{path} row {begin + broken[0]}: a value that is not finite")
    flat = np.flatnonzero(np.ptp(slabs[0], axis=1).max(axis=1) == 0)
    if len(flat):
        raise DataError(f"{path} row {begin + flat[0]}: all points are in one place")


def read_row(shape: CloudFile) -> Cloud:
    # Opened for every shape: 0.3 ms, and no open handle stands in the way of who replaces the file.
    try:
        with h5py.File(shape.path, "r") as file:
            points = file["data"][shape.row].astype(np.float64)
            normals = file["normal"][shape.row].astype(np.float64) if "normal" in file else None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise SourceError(f"{shape.path} row {shape.row} is unreadable: {error}") from error
    return Cloud(points, normals)
