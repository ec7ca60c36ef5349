"""Writing a prepared split: atomically, a slab of shapes at a time. Layout: ``data.storage``."""

from __future__ import annotations

import hashlib
import io
import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from data.parts import UNLABELLED
from data.storage import FORMAT, FRAME, JSONS, VERSION
from utils.files import atomic_path

CHUNK = 1 << 16  # bytes by which the label images grow on disk
SLAB = 64  # shapes written at once: a write costs 60 microseconds, however little it holds


@dataclass
class ShapeRecord:
    """One shape as it is stored; axes as in ``data.storage``, without the leading S."""

    id: str
    label: int
    points: np.ndarray  # (P, 3) float32
    normals: np.ndarray  # (P, 3) float16
    visibility: np.ndarray  # (P, ceil(V/8)) uint8
    images: list[bytes]  # V PNG streams
    parts: np.ndarray | None = None  # (P,) uint8
    part_images: list[bytes] | None = None  # V PNG streams


@dataclass
class SplitHeader:
    """What a split says about itself, and the sizes that its writer has to know beforehand."""

    name: str
    split: str
    source: str
    class_names: list[str]
    part_names: dict[str, list[str]]  # class -> names; empty for a set without part labels
    recipe: dict[str, Any]
    recipe_hash: str
    settings: dict[str, Any]
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    num_shapes: int
    num_points: int
    image_bytes: int  # of all streams together


def encode_png(image: np.ndarray) -> bytes:
    """A PNG stream of (H, W) or (H, W, 3) uint8."""
    stream = io.BytesIO()
    # On such images level 4 takes 0.6 of the time of the default, 6, for 2 % more bytes.
    Image.fromarray(image).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def write_split(path: str | Path, header: SplitHeader, records: Iterable[ShapeRecord]) -> str:
    """Write a split atomically, holding ``SLAB`` shapes at a time; equal input gives equal bytes.

    Returns:
        The hash of its data: classes, ids, labels, points, visibility and parts.

    Raises:
        ValueError: the records do not have the number, order or sizes that ``header`` announces.
    """
    num_shapes, num_points, num_views = header.num_shapes, header.num_points, len(header.intrinsics)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        points = file.create_dataset("points", (num_shapes, num_points, 3), np.float32)
        normals = file.create_dataset("normals", (num_shapes, num_points, 3), np.float16)
        width = -(-num_views // 8)
        visibility = file.create_dataset("visibility", (num_shapes, num_points, width), np.uint8)
        part_labels = _PartLabels(file, header) if header.part_names else None
        images = file.create_dataset("images", (header.image_bytes,), np.uint8)
        ids: list[str] = []
        labels: list[int] = []
        offsets = array("q", [0])  # a list of as many numbers takes five times the memory
        digest = hashlib.sha256(json.dumps(header.class_names).encode())
        if part_labels:
            digest.update(json.dumps(header.part_names, sort_keys=True).encode())
        remaining = iter(records)
        while slab := list(islice(remaining, SLAB)):
            rows = slice(len(ids), len(ids) + len(slab))
            if rows.stop > num_shapes:
                raise ValueError(f"more than {num_shapes} shapes for {header}")
            points[rows] = np.stack([record.points for record in slab])
            normals[rows] = np.stack([record.normals for record in slab])
            visibility[rows] = np.stack([record.visibility for record in slab])
            streams = [stream for record in slab for stream in record.images]
            images[_extend(offsets, streams)] = np.frombuffer(b"".join(streams), np.uint8)
            parts = part_labels.write(rows, slab) if part_labels else None
            for place, record in enumerate(slab):
                ids.append(record.id)
                labels.append(record.label)
                digest.update(f"{record.id}\0{record.label}\0".encode())
                digest.update(np.ascontiguousarray(record.points, dtype="<f4"))
                digest.update(np.ascontiguousarray(record.visibility))
                if parts is not None:
                    digest.update(parts[place])
        if len(ids) != num_shapes or len(offsets) != num_shapes * num_views + 1:
            raise ValueError(f"{len(ids)} shapes and {len(offsets) - 1} views for {header}")
        if ids != sorted(ids) or offsets[-1] != header.image_bytes:
            raise ValueError("records out of order, or another number of image bytes")
        if part_labels:
            part_labels.finish()
        file.create_dataset("ids", data=ids, dtype=h5py.string_dtype())
        file.create_dataset("labels", data=np.array(labels, np.int64))
        file.create_dataset("offsets", data=np.array(offsets, np.int64))
        file.create_dataset("intrinsics", data=header.intrinsics)
        file.create_dataset("extrinsics", data=header.extrinsics)
        data_hash = digest.hexdigest()[:12]
        _write_attributes(file, header, data_hash)
    return data_hash


def _extend(offsets: array[int], streams: list[bytes]) -> slice:
    """Append where the streams end; returns the bytes that they take."""
    begin = offsets[-1]
    offsets.extend(begin + end for end in accumulate(map(len, streams)))
    return slice(begin, offsets[-1])


class _PartLabels:
    """The part labels of a split. The label images grow with it: their parts get the numbers of
    their class only now, so nobody knows beforehand what the streams will measure."""

    def __init__(self, file: h5py.File, header: SplitHeader):
        self.file = file
        self.parts = file.create_dataset("parts", (header.num_shapes, header.num_points), np.uint8)
        self.images = file.create_dataset(
            "part_images", (0,), np.uint8, maxshape=(None,), chunks=(CHUNK,)
        )
        self.offsets = array("q", [0])
        size = header.recipe["image_size"]
        blank = encode_png(np.full((size, size), UNLABELLED, np.uint8))
        self.blanks = [blank] * len(header.intrinsics)
        self.no_parts = np.full(header.num_points, UNLABELLED, np.uint8)

    def write(self, rows: slice, slab: list[ShapeRecord]) -> np.ndarray:
        """Those of the shapes ``slab``, which may have none; returns their part numbers as they are
        stored, (shapes, P) uint8."""
        parts = np.stack([self.no_parts if r.parts is None else r.parts for r in slab])
        self.parts[rows] = parts
        images = [self.blanks if r.part_images is None else r.part_images for r in slab]
        streams = [stream for one in images for stream in one]
        place = _extend(self.offsets, streams)
        self.images.resize((place.stop,))
        self.images[place] = np.frombuffer(b"".join(streams), np.uint8)
        return parts

    def finish(self) -> None:
        offsets = np.array(self.offsets, np.int64)
        self.file.create_dataset("part_offsets", data=offsets)


def _write_attributes(file: h5py.File, header: SplitHeader, data_hash: str) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION
    file.attrs["frame"] = FRAME
    file.attrs["data_hash"] = data_hash
    file.attrs["image_size"] = header.recipe["image_size"]
    for key in ("name", "split", "source", "recipe_hash"):
        file.attrs[key] = getattr(header, key)
    for key in JSONS:
        file.attrs[key] = json.dumps(getattr(header, key), sort_keys=True)
