"""Writing a prepared split: atomically, one shape in memory at a time. Layout: ``data.storage``."""

from __future__ import annotations

import hashlib
import io
import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from data.parts import UNLABELLED
from data.storage import FORMAT, FRAME, JSONS, VERSION
from utils.files import atomic_path

CHUNK = 1 << 16  # bytes by which the label images grow on disk


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


def write_split(path: str | Path, header: SplitHeader, records: Iterable[ShapeRecord]) -> None:
    """Write a split atomically, holding one shape at a time; equal input gives equal bytes.

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
        for row, record in enumerate(records):
            points[row] = record.points
            normals[row] = record.normals
            visibility[row] = record.visibility
            begin = offsets[-1]
            offsets.extend((begin + np.cumsum([len(stream) for stream in record.images])).tolist())
            images[begin : offsets[-1]] = np.frombuffer(b"".join(record.images), np.uint8)
            ids.append(record.id)
            labels.append(record.label)
            digest.update(f"{record.id}\0{record.label}\0".encode())
            digest.update(np.ascontiguousarray(record.points, dtype="<f4"))
            digest.update(np.ascontiguousarray(record.visibility))
            if part_labels:
                digest.update(part_labels.write(row, record))
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
        _write_attributes(file, header, digest.hexdigest()[:12])


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

    def write(self, row: int, record: ShapeRecord) -> bytes:
        """Those of a shape, which may have none; returns the part numbers as they are stored."""
        self.parts[row] = UNLABELLED if record.parts is None else record.parts
        streams = self.blanks if record.part_images is None else record.part_images
        begin = self.offsets[-1]
        self.offsets.extend((begin + np.cumsum([len(stream) for stream in streams])).tolist())
        self.images.resize((self.offsets[-1],))
        self.images[begin:] = np.frombuffer(b"".join(streams), np.uint8)
        return self.parts[row].tobytes()

    def finish(self) -> None:
        self.file.create_dataset("part_offsets", data=np.array(self.offsets, np.int64))


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
