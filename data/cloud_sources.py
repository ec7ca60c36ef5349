"""Reading the clouds of point-cloud sources, one shape at a time: packed, text or single files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from data.clouds import FEWEST_POINTS, is_number, read_cloud
from data.sources import ShapeFile
from utils.errors import DataError

# The official categories of ShapeNetPart and how many of its 50 parts each has: the parts are
# numbered through in this order.
SHAPENET_PARTS = {
    "Airplane": 4,
    "Bag": 2,
    "Cap": 2,
    "Car": 4,
    "Chair": 4,
    "Earphone": 3,
    "Guitar": 3,
    "Knife": 2,
    "Lamp": 4,
    "Laptop": 2,
    "Motorbike": 6,
    "Mug": 2,
    "Pistol": 3,
    "Rocket": 3,
    "Skateboard": 3,
    "Table": 3,
}
_SEPARATORS = bytes.maketrans(b",;", b"  ")


class SourceError(DataError):
    """A source that is not what it is taken for: no single shape can be blamed and left out."""


UNIFORM = "normals"  # the kind whose release gives every cloud the same number of points


@dataclass(frozen=True, slots=True)
class CloudFile(ShapeFile):
    """A cloud to prepare.

    Attributes:
        kind: how ``path`` is read, a key of ``READERS``.
        row: its place in a packed file.
        digest: of its content, where that has been read already (packed files).
    """

    kind: str = "file"
    row: int | None = None
    digest: str = ""

    @property
    def place(self) -> str:
        if self.kind == "file":
            return super(CloudFile, self).place  # a class with slots is not the one defined here
        if self.kind == "packed":
            return f"{self.path.name} row {self.row}"
        return f"{self.path.parent.name}/{self.path.name}"

    def fingerprint(self) -> str:
        return f"{self.id} {self.place} {self.digest or self.path.stat().st_size}"


@dataclass
class Cloud:
    """A cloud as it is in its file: own units and axes.

    Attributes:
        points: (N, 3) float64. normals: (N, 3) float64, None where the file has none.
        parts: (N,) uint8, places in the part names of its class; None without part labels.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    parts: np.ndarray | None = None


def load_cloud(shape: CloudFile) -> Cloud:
    """Read one cloud.

    Raises:
        DataError: with the reason why the cloud cannot be used, without the file's name.
        SourceError: part labels that the official numbering does not have; with the file's name.
    """
    cloud = READERS[shape.kind](shape)
    if len(cloud.points) < FEWEST_POINTS:
        raise DataError(f"{len(cloud.points)} points, expected {FEWEST_POINTS} or more")
    if np.ptp(cloud.points, axis=0).max() == 0:
        raise DataError("all points are in one place")
    return cloud


def part_names(class_name: str) -> list[str]:
    """Names of the parts of a ShapeNetPart category, which the set does not give: part0, ..."""
    return [f"part{number}" for number in range(SHAPENET_PARTS[class_name])]


def first_part(class_name: str) -> int:
    """The official number of a ShapeNetPart category's first part."""
    counts = list(SHAPENET_PARTS.values())
    return sum(counts[: list(SHAPENET_PARTS).index(class_name)])


def has_faces(path: Path) -> bool:
    """Whether the header of a PLY announces faces."""
    with path.open("rb") as file:
        header = file.read(8192).partition(b"end_header")[0]
    return re.search(rb"^element\s+face\s+0*[1-9]", header, re.MULTILINE) is not None


def read_table(path: Path, columns: int) -> np.ndarray:
    """Read a text file of numbers, parted by spaces, commas or semicolons, as (N, ``columns``).

    Empty lines are passed over.

    Raises:
        DataError: unreadable, a line of another number of columns, words that are no numbers,
            values that are not finite; the message names the line, counted from 1.
    """
    try:
        lines = path.read_bytes().translate(_SEPARATORS).splitlines()
    except OSError as error:
        raise DataError(f"unreadable: {error.strerror or error}") from error
    numbered = [(number, words) for number, line in enumerate(lines, 1) if (words := line.split())]
    for number, words in numbered:
        if len(words) != columns:
            raise DataError(f"line {number} has {len(words)} columns, expected {columns}")
    if not numbered:
        raise DataError("no points")
    try:
        table = np.array([word for _, words in numbered for word in words], dtype=np.float64)
    except ValueError:
        number = next(number for number, words in numbered if not all(map(is_number, words)))
        raise DataError(f"line {number} holds a word that is no number") from None
    table = table.reshape(-1, columns)
    broken = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(broken):
        raise DataError(f"line {numbered[broken[0]][0]} holds a value that is not finite")
    return table


def _read_file(shape: CloudFile) -> Cloud:
    # A further column of such a file may be a normal, a colour or a label: nobody knows.
    if shape.path.suffix.lower() == ".ply" and has_faces(shape.path):
        raise DataError("a mesh, not a cloud")
    try:
        return Cloud(read_cloud(shape.path))
    except DataError as error:
        raise DataError(str(error).removeprefix(f"cloud {shape.path}: ")) from error


def _read_normals(shape: CloudFile) -> Cloud:
    """``x,y,z,nx,ny,nz`` lines."""
    table = read_table(shape.path, 6)
    return Cloud(table[:, :3], table[:, 3:])


def _read_parts(shape: CloudFile) -> Cloud:
    """``x y z nx ny nz label`` lines, with the label counted through all categories."""
    table = read_table(shape.path, 7)
    begin = first_part(shape.class_name)
    end = begin + SHAPENET_PARTS[shape.class_name]
    labels = table[:, 6]
    wrong = np.flatnonzero((labels != np.rint(labels)) | (labels < begin) | (labels >= end))
    if len(wrong):
        row = wrong[0]
        raise SourceError(
            f"{shape.path}: point {row + 1} has part label {labels[row]:g}, expected {begin} to "
            f"{end - 1} for {shape.class_name}: the numbers of the official 50 parts"
        )
    return Cloud(table[:, :3], table[:, 3:6], (labels - begin).astype(np.uint8))


def _read_packed(shape: CloudFile) -> Cloud:
    # Opened for every shape: 0.3 ms, and no open handle stands in the way of who replaces the file.
    try:
        with h5py.File(shape.path, "r") as file:
            points = file["data"][shape.row].astype(np.float64)
            normals = file["normal"][shape.row].astype(np.float64) if "normal" in file else None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise SourceError(f"{shape.path} row {shape.row} is unreadable: {error}") from error
    return Cloud(points, normals)


READERS = {
    "file": _read_file,
    "normals": _read_normals,
    "parts": _read_parts,
    "packed": _read_packed,
}
