"""Clouds in files of their own: what stands for one, how text is read, and lists that name files.

Each data set says how its own files are read: a :class:`CloudFile` carries its reader along.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.geometry.clouds import FEWEST_POINTS, is_number, read_cloud
from data.sources.folders import ShapeFile, Source
from data.storage import SPLITS
from utils.errors import DataError

_SEPARATORS = bytes.maketrans(b",;", b"  ")


class SourceError(DataError):
    """A source that is not what it is taken for: no single shape can be blamed and left out."""


@dataclass
class Cloud:
    """A cloud as it is in its file: own units and axes.

    Attributes:
        points: (N, 3) float64. normals: (N, 3) float64, None where the file has none.
        parts: (N,) uint8, places in ``part_names``; None without part labels.
        part_names: of the cloud's class, where it has part labels.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    parts: np.ndarray | None = None
    part_names: list[str] | None = None


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


def read_single(shape: CloudFile) -> Cloud:
    # A further column of such a file may be a normal, a colour or a label: nobody knows.
    if shape.path.suffix.lower() == ".ply" and has_faces(shape.path):
        raise DataError("a mesh, not a cloud")
    try:
        return Cloud(read_cloud(shape.path))
    except DataError as error:
        raise DataError(str(error).removeprefix(f"cloud {shape.path}: ")) from error


@dataclass(frozen=True, slots=True)
class CloudFile(ShapeFile):
    """A cloud to prepare.

    Attributes:
        read: how it is read; a function of a module, because other processes call it.
        listed: whether a list of the data set names it, and its id therefore is not its path.
        uniform: whether the release gives every cloud the same number of points.
        row: its place in a packed file.
        digest: of its content, where that has been read already (packed files).
    """

    read: Callable[[CloudFile], Cloud] = read_single
    listed: bool = False
    uniform: bool = False
    row: int | None = None
    digest: str = ""

    @property
    def place(self) -> str:
        if self.row is not None:
            return f"{self.path.name} row {self.row}"
        if self.listed:
            return f"{self.path.parent.name}/{self.path.name}"
        return super(CloudFile, self).place  # a class with slots is not the one defined here

    def fingerprint(self) -> str:
        return f"{self.id} {self.place} {self.digest or self.path.stat().st_size}"


def load_cloud(shape: CloudFile) -> Cloud:
    """Read one cloud.

    Raises:
        DataError: with the reason why the cloud cannot be used, without the file's name.
        SourceError: part labels that the official numbering does not have; with the file's name.
    """
    cloud = shape.read(shape)
    if len(cloud.points) < FEWEST_POINTS:
        raise DataError(f"{len(cloud.points)} points, expected {FEWEST_POINTS} or more")
    if np.ptp(cloud.points, axis=0).max() == 0:
        raise DataError("all points are in one place")
    return cloud


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    Raises:
        DataError: unreadable, or without any.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not lines:
        raise DataError(f"{path} is empty")
    return lines


class Collector:
    """Gathers the text files that lists name.

    Args:
        folder: of the source. read, uniform: of the files, see :class:`CloudFile`.
    """

    def __init__(self, folder: Path, read: Callable[[CloudFile], Cloud], uniform: bool = False):
        self.folder, self.read, self.uniform = folder, read, uniform
        self.shapes: list[CloudFile] = []
        self.skipped: list[tuple[str, str]] = []
        self._where: dict[Path, str] = {}
        self._there: dict[Path, set[str]] = {}  # class folder -> its files

    def add(self, path: Path, class_name: str, split: str, where: str) -> None:
        """Take up a file that the list entry ``where`` names.

        Raises:
            DataError: an entry before named it too.
        """
        if path in self._where:
            raise DataError(f"{where} names {path}, as {self._where[path]} does already")
        self._where[path] = where
        parent = path.parent
        if parent not in self._there:
            self._there[parent] = {item.name for item in parent.glob("*.txt")}
        if path.name in self._there[parent]:
            shape_id = f"{class_name}/{split}/{path.stem}"
            file = CloudFile(shape_id, path, class_name, split, self.read, True, self.uniform)
            self.shapes.append(file)
        elif self._there[parent]:
            name = path.relative_to(self.folder).as_posix()
            self.skipped.append((name, f"no such file, and {where} names it"))

    def source(self, class_names: list[str]) -> Source:
        """What was gathered; DataError where a split got nothing."""
        for split in SPLITS:
            if not any(shape.split == split for shape in self.shapes):
                raise DataError(f"{self.folder} gives no cloud for {split}: both splits need some")
        shapes = sorted(self.shapes, key=lambda shape: shape.id)
        return Source(shapes, class_names, sorted(self.skipped), True)
