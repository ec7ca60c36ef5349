"""The record of one shape as a file, and where the records of a set lie.

A record is kept from the moment its shape is prepared until the set is assembled. Its file is a
line of JSON, {"arrays": [[name, dtype, shape], ...], "size": bytes behind the line, "crc": of
them}, and then the arrays, the smallest first: looking a record over takes its first block alone.
Size and checksum say whether the file is whole, so that nobody has to wait for the disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data.prepare.shape import Record, ShapeSettings
from data.sources.folders import ShapeFile
from data.storage import VERSION
from utils.errors import RunError
from utils.files import atomic_path

RECORD = 4  # raise it whenever a record holds other things: those of an older program are no use
SUFFIX = ".record"


class Records:
    """The records of a set's shapes.

    A record's name depends on all that decides its content, the settings and the shape's file: a
    record that is there is the right one. They are spread over 256 folders, because few file
    systems like a million files in one.

    Args:
        settings: of the shapes. folder: where they are written. others: where they may lie too.
    """

    def __init__(self, settings: ShapeSettings, folder: Path, *others: Path):
        self.settings = settings
        self.folder = str(folder)
        self._folders = [self.folder, *map(str, others)]
        identity = [VERSION, settings.renderer, RECORD, asdict(settings)]
        self._digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())

    def path(self, shape: ShapeFile) -> Path:
        """Where the record of a shape is written."""
        return Path(self.folder, self._name(shape))

    def find(self, shape: ShapeFile) -> str | None:
        """Where the record of a shape is, None where it is not."""
        name = self._name(shape)
        for folder in self._folders:
            path = f"{folder}/{name}"
            try:
                if os.stat(path).st_size:  # a machine that lost its power may leave empty files
                    return path
            except OSError:
                continue
        return None

    def read(self, shape: ShapeFile, names: Collection[str] | None = None) -> Record:
        """The record of a shape, or those of the named arrays that it has.

        Raises:
            RunError: it is not there any more, or damaged.
        """
        path = self.find(shape)
        if path is None:
            raise RunError(
                f"the record of {shape.place} has gone from {self.folder}, or the file has changed "
                "meanwhile; the same command makes it again"
            )
        return read_record(path, names)

    def _name(self, shape: ShapeFile) -> str:
        digest = self._digest.copy()
        digest.update(shape.fingerprint().encode())
        name = digest.hexdigest()
        return f"{name[:2]}/{name[2:32]}{SUFFIX}"


def write_record(path: Path, record: Record) -> None:
    """Write a record; a process that is killed leaves nothing at ``path``."""
    arrays = sorted(record.items(), key=lambda item: item[1].nbytes)
    content = b"".join(array.tobytes() for _, array in arrays)
    header = {
        "arrays": [[name, array.dtype.str, array.shape] for name, array in arrays],
        "size": len(content),
        "crc": zlib.crc32(content),
    }
    with atomic_path(path, flush=False) as temporary, temporary.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(content)


def read_record(path: str | Path, names: Collection[str] | None = None) -> Record:
    """Read a record, or those of the named arrays that it has; arrays are read-only.

    Raises:
        RunError: it is damaged.
    """
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
            begin, size = file.tell(), os.fstat(file.fileno()).st_size
            if size - begin != header["size"]:
                raise ValueError(f"{size} bytes, expected {begin + header['size']}")
            places = _places(header["arrays"])
            if places and places[-1][-1] != header["size"]:
                raise ValueError(f"{places[-1][-1]} bytes of arrays, expected {header['size']}")
            places = [place for place in places if names is None or place[0] in names]
            content = file.read(max((end for *_, end in places), default=0))
        if names is None and zlib.crc32(content) != header["crc"]:
            raise ValueError("wrong checksum")
        return {
            name: np.ndarray(shape, dtype, content, offset)
            for name, dtype, shape, offset, _ in places
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"the record {path} is damaged ({error}); remove it, and the command that made it "
            "makes it again"
        ) from error


def _places(
    arrays: list[tuple[str, str, list[int]]],
) -> list[tuple[str, np.dtype, list[int], int, int]]:
    """(name, dtype, shape, begin, end) of the arrays, which follow one another."""
    places, begin = [], 0
    for name, dtype, shape in arrays:
        end = begin + math.prod(shape) * np.dtype(dtype).itemsize
        places.append((name, np.dtype(dtype), shape, begin, end))
        begin = end
    return places
