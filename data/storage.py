"""A prepared split as one self-describing HDF5 file: its layout and its reader.

S shapes in the order of their sorted ids, P points and V views per shape:

    ids         (S,) strings            labels      (S,) int64
    points      (S, P, 3) float32       unit sphere, z up, farthest-point order
    normals     (S, P, 3) float16       of the face under each point; winding decides the sign
    visibility  (S, P, ceil(V/8)) uint8 bit v (lowest first) says whether view v sees the point
    intrinsics  (V, 3, 3) float64       extrinsics (V, 4, 4) float64, see data.rendering.cameras
    images      (bytes,) uint8          PNG streams end to end, the views of a shape side by side
    offsets     (S * V + 1,) int64      where each stream starts in ``images``

and in sets with part labels, numbered as ``data.parts`` says (sets of an earlier version may lack
the label images, of which every pixel belongs to the same pixel of its view):

    parts        (S, P) uint8           places in part_names[class], or UNLABELLED
    part_images  (bytes,) uint8         PNG streams like those of ``images``, also with BACKGROUND
    part_offsets (S * V + 1,) int64

Attributes: format, version, name, split, frame, source, class_names, part_names, recipe, settings
(the last four JSON), recipe_hash, data_hash, image_size. Nothing is compressed by HDF5: a shape is
one short read of each dataset, and nothing here shrinks enough to pay for it. The writer is
``data.prepare.writer``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from data.hdf5 import OpenedPerProcess, read_rows
from data.parts import BACKGROUND, UNLABELLED, PartNumbers
from utils.errors import DataError

FORMAT = "multiview-distillation split"
VERSION = 1
FRAME = "right-handed, z up, bounding box centred, scaled into the unit sphere"
SPLITS = ("train", "test")

DATASETS = (
    "ids",
    "labels",
    "points",
    "normals",
    "visibility",
    "intrinsics",
    "extrinsics",
    "images",
    "offsets",
)
NUMBERS = {  # what the datasets hold
    "labels": np.int64,
    "points": np.float32,
    "normals": np.float16,
    "visibility": np.uint8,
    "intrinsics": np.float64,
    "extrinsics": np.float64,
    "images": np.uint8,
    "offsets": np.int64,
    "parts": np.uint8,
    "part_images": np.uint8,
    "part_offsets": np.int64,
}
TEXTS = ("name", "split", "frame", "source", "recipe_hash", "data_hash")
JSONS = ("class_names", "part_names", "recipe", "settings")


def decode_png(stream: bytes) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8; OSError or ValueError for what is no PNG stream."""
    return np.asarray(Image.open(io.BytesIO(stream)))


class PreparedSplit(OpenedPerProcess):
    """A prepared split on disk; small fields are read at once, arrays when asked for.

    The file is opened once per process, on first use, so an instance may be handed to the worker
    processes of a loader by fork or by pickle.

    Attributes:
        name, split, frame, source, recipe_hash, data_hash: strings.
        ids: S strings. labels: (S,) int64. class_names: list of strings.
        part_names: class -> list of part names, empty without part labels.
        part_numbers: the numbering of parts over all classes, :class:`data.parts.PartNumbers`;
        from it num_parts, and part_ranges, (begin, end) of each class' global part numbers.
        has_part_images: whether there are label images.
        recipe, settings: dicts. num_views, num_points, image_size: ints.
        intrinsics (V, 3, 3), extrinsics (V, 4, 4): float64, see ``data.rendering.cameras``.

    Raises:
        DataError: missing, truncated, not such a file, or inconsistent.
    """

    name: str
    split: str
    frame: str
    source: str
    recipe_hash: str
    data_hash: str
    class_names: list[str]
    part_names: dict[str, list[str]]
    recipe: dict[str, Any]
    settings: dict[str, Any]

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"no prepared split at {path}; make it with python -m data.prepare")
        try:
            with h5py.File(self.path, "r") as file:
                self._read_header(file)
        except DataError:
            raise
        # what a missing or misshapen dataset or attribute leads to, here or inside h5py
        except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise DataError(
                f"{path} is damaged or no prepared split ({error}); prepare the set again with "
                "--overwrite"
            ) from error

    def _read_header(self, file: h5py.File) -> None:
        if file.attrs.get("format") != FORMAT:
            raise DataError(f"{self.path} is HDF5, but no split of python -m data.prepare")
        if file.attrs["version"] != VERSION:
            raise DataError(
                f"{self.path} has version {file.attrs['version']}, expected {VERSION}; prepare the "
                "set again with --overwrite"
            )
        absent = [name for name in DATASETS if name not in file]
        if absent:
            raise DataError(
                f"{self.path} lacks {', '.join(absent)}; prepare the set again with --overwrite"
            )
        for key in TEXTS:
            setattr(self, key, str(file.attrs[key]))
        for key in JSONS:
            setattr(self, key, json.loads(file.attrs[key]))
        self.ids = [item.decode() for item in file["ids"][()]]
        self.labels = file["labels"][()].astype(np.int64)
        self.intrinsics = file["intrinsics"][()]
        self.extrinsics = file["extrinsics"][()]
        self._offsets = {"images": file["offsets"][()]}
        self.has_part_images = "part_images" in file
        if self.has_part_images:
            self._offsets["part_images"] = file["part_offsets"][()]
        self.part_numbers = PartNumbers(self.class_names, self.part_names)
        self.num_parts, self.part_ranges = self.part_numbers.count, self.part_numbers.ranges
        self.num_points = int(file["points"].shape[1])
        self.num_views = len(self.intrinsics)
        self.image_size = int(file.attrs["image_size"])
        self._check_shapes(file)

    def _check_shapes(self, file: h5py.File) -> None:
        shapes, points, views = len(self.ids), self.num_points, self.num_views
        expected: dict[str, tuple[int, ...]] = {
            "labels": (shapes,),
            "points": (shapes, points, 3),
            "normals": (shapes, points, 3),
            "visibility": (shapes, points, -(-views // 8)),
            "extrinsics": (views, 4, 4),
            "offsets": (shapes * views + 1,),
            "images": (int(self._offsets["images"][-1]),),
        }
        if self.has_part_images:
            expected["part_offsets"] = (shapes * views + 1,)
            expected["part_images"] = (int(self._offsets["part_images"][-1]),)
        if self.part_names:
            expected["parts"] = (shapes, points)
        for name, shape in expected.items():
            if file[name].shape != shape:
                raise DataError(f"{self.path}: {name} is {file[name].shape}, expected {shape}")
        for name in NUMBERS.keys() & file.keys():
            if file[name].dtype != NUMBERS[name]:
                raise DataError(
                    f"{self.path}: {name} is {file[name].dtype}, expected "
                    f"{np.dtype(NUMBERS[name])}; prepare the set again with --overwrite"
                )
        if not (np.isfinite(self.intrinsics).all() and np.isfinite(self.extrinsics).all()):
            raise DataError(f"{self.path}: cameras that are not finite")
        classes = len(self.class_names)
        if shapes == 0 or self.labels.min() < 0 or self.labels.max() >= classes:
            raise DataError(f"{self.path}: no shapes, or labels outside the {classes} classes")

    def __len__(self) -> int:
        return len(self.ids)

    # In what follows ``rows`` (R,) are the shapes to read, None for all S, and ``count`` limits the
    # points, P of them, to the first of the stored order.

    def points(self, rows: np.ndarray | None = None, count: int | None = None) -> np.ndarray:
        """Clouds, (R, P, 3) float32.

        Raises:
            DataError: values that are not finite.
        """
        points = read_rows(self._file["points"], rows, count)
        broken = np.flatnonzero(~np.isfinite(points).all(axis=(1, 2)))
        if len(broken):
            raise DataError(
                f"{self.path}: {self._id_of(rows, broken[0])} has points that are not finite; "
                "prepare the set again with --overwrite"
            )
        return points

    def normals(self) -> np.ndarray:
        """Unit normals of the faces under the points, (S, P, 3) float16, of either sign."""
        return self._file["normals"][()]

    def visibility(self, rows: np.ndarray | None = None, count: int | None = None) -> np.ndarray:
        """(R, P, ceil(V/8)) uint8; :func:`data.rendering.cameras.unpack_visibility` opens it."""
        return read_rows(self._file["visibility"], rows, count)

    def parts(self, rows: np.ndarray | None = None, count: int | None = None) -> np.ndarray:
        """Stored part numbers of the points, (R, P) uint8.

        Raises:
            DataError: the set has no part labels, or holds numbers that its classes do not have.
        """
        self.check_parts()
        parts = read_rows(self._file["parts"], rows, count)
        labels = self.labels if rows is None else self.labels[rows]
        counts = np.array([end - begin for begin, end in self.part_ranges])[labels]  # (R,)
        wrong = ((parts >= counts[:, None]) & (parts != UNLABELLED)).any(axis=1)
        if wrong.any():
            raise DataError(
                f"{self.path}: {self._id_of(rows, wrong.argmax())} has part numbers that its class "
                "does not have; prepare the set again with --overwrite"
            )
        return parts

    def check_parts(self) -> None:
        """Raise DataError if the points have no part labels."""
        if not self.part_names:
            raise DataError(
                f"{self.path} has no part labels: its meshes had no files of labels beside them, "
                "see data/README.md"
            )

    def _id_of(self, rows: np.ndarray | None, place: int) -> str:
        return self.ids[place if rows is None else rows[place]]

    def global_parts(self) -> np.ndarray:
        """Part numbers of the points over all classes, (S, P) int16, -1 without a label.

        Raises:
            DataError: see :meth:`parts`.
        """
        return self.part_numbers.to_global(self.parts(), self.labels).astype(np.int16)

    def views(self, index: int, chosen: Sequence[int] | None = None) -> np.ndarray:
        """The views of one shape, or the chosen ones: (V, H, W) or (V, H, W, 3) uint8."""
        return self._decode("images", index, chosen)

    def part_images(self, index: int, chosen: Sequence[int] | None = None) -> np.ndarray:
        """The label images that belong to ``views(index, chosen)``: (V, H, W) uint8, stored part
        numbers, ``BACKGROUND`` or ``UNLABELLED``.

        Raises:
            DataError: the set has none, or they hold numbers that the class does not have.
        """
        self.check_part_images()
        images = self._decode("part_images", index, chosen)
        begin, end = self.part_ranges[self.labels[index]]
        if ((images >= end - begin) & (images < BACKGROUND)).any():
            raise DataError(
                f"{self.path}: label images of {self.ids[index]} have part numbers that its class "
                "does not have; prepare the set again with --overwrite"
            )
        return images

    def check_part_images(self) -> None:
        """Raise DataError if the set has no label images."""
        if not self.has_part_images:
            raise DataError(
                f"{self.path} has no label images: its meshes had no part labels, or it was "
                "prepared before label images were kept; then prepare it again with --overwrite"
            )

    def _decode(self, name: str, index: int, chosen: Sequence[int] | None) -> np.ndarray:
        offsets = self._offsets[name][index * self.num_views : (index + 1) * self.num_views + 1]
        streams = self._file[name][offsets[0] : offsets[-1]].tobytes()
        cuts = (offsets - offsets[0]).tolist()
        views = range(self.num_views) if chosen is None else chosen
        try:
            return np.stack([decode_png(streams[cuts[view] : cuts[view + 1]]) for view in views])
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: views of {self.ids[index]} are damaged") from error


def open_split(name: str | Path, split: str, root: str | Path = "data") -> PreparedSplit:
    """Open ``root/name/split.h5``, or ``name/split.h5`` where ``name`` is a folder.

    Raises:
        DataError: there is no such set or split, or it is damaged.
    """
    folder = Path(root) / name
    if not folder.is_dir() and Path(name).is_dir():
        folder = Path(name)
    path = folder / f"{split}.h5"
    if path.is_file():
        return PreparedSplit(path)
    sets = sorted(item.parent.name for item in Path(root).glob("*/train.h5"))
    known = f"there are {', '.join(sets)}" if sets else f"{root} holds no prepared set yet"
    raise DataError(
        f"no prepared split {path}: {known}. Make it with python -m data.prepare SOURCE --name "
        f"{Path(name).name} (--shapes instead of SOURCE makes the embedded set)"
    )
