"""The embedded data set: parametric objects of 16 classes with a part label for every face.

Nothing has to be downloaded: ``python -m data.synthetic FOLDER`` writes meshes in the ModelNet
layout, made to be read by ``data.prepare`` like any other set. Within a class the proportions, the
options (arms, handles, engines) and the kinds of legs, backs or cargo vary; between classes they
overlap, so that a classifier has something to confuse. The objects are built in ``furniture``,
``vessels`` and ``vehicles``.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.synthetic import furniture, vehicles, vessels
from data.synthetic.primitives import Mesh, merge
from utils.errors import ConfigError, DataError
from utils.files import atomic_path

_BUILDERS = {
    **furniture.BUILDERS,
    **vehicles.BUILDERS,
    **vessels.BUILDERS,
}

CLASSES: tuple[str, ...] = tuple(sorted(_BUILDERS))
PARTS: dict[str, tuple[str, ...]] = {name: _BUILDERS[name][1] for name in CLASSES}

FIRST_NUMBER = {"train": 1, "test": 5001}
MOST_PER_CLASS = 4999
YAW = 20.0  # degrees: a shape faces -y up to this much to either side
STRETCH = 0.2  # the logarithm of each axis' factor is within this much of 0


class Shape(NamedTuple):
    """A mesh with a part for every face.

    ``vertices`` (V, 3) float64 in the project's frame (right-handed, z up, the middle of the
    bounding box at the origin, scaled into the unit sphere), ``faces`` (F, 3) int64,
    ``face_parts`` (F,) uint8: places in ``PARTS[class_name]``.
    """

    vertices: np.ndarray
    faces: np.ndarray
    face_parts: np.ndarray


def make_shape(class_name: str, rng: np.random.Generator) -> Shape:
    """One object of a class, drawn from ``rng``: same state, same shape.

    It faces -y within ``YAW`` degrees and is stretched a little along each of its axes.
    Raises ConfigError for an unknown class.
    """
    if class_name not in _BUILDERS:
        raise ConfigError(f"no embedded class {class_name!r}: take one of {', '.join(CLASSES)}")
    build, parts = _BUILDERS[class_name]
    pieces = build(rng)
    stretch = np.exp(rng.uniform(-STRETCH, STRETCH, 3))
    whole = merge([mesh for _, mesh in pieces]).scaled(*stretch)
    whole = whole.turned("z", rng.uniform(-YAW, YAW))
    face_parts = np.repeat(
        np.array([parts.index(name) for name, _ in pieces], dtype=np.uint8),
        [len(mesh.faces) for _, mesh in pieces],
    )
    return Shape(_into_unit_sphere(whole).vertices, whole.faces, face_parts)


def _into_unit_sphere(mesh: Mesh) -> Mesh:
    middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    centred = mesh.vertices - middle
    return Mesh(centred / np.linalg.norm(centred, axis=1).max(), mesh.faces)


def shape_rng(seed: int, class_name: str, number: int) -> np.random.Generator:
    """The generator of one shape, which depends on nothing but its own name and the seed."""
    return np.random.default_rng([seed, zlib.crc32(class_name.encode()), number])


def off_bytes(shape: Shape) -> bytes:
    """The mesh as an OFF file with six decimals and a line for each vertex and face."""
    vertices = shape.vertices.round(6) + 0.0  # + 0.0 turns -0 into 0
    text = f"OFF\n{len(vertices)} {len(shape.faces)} 0\n"
    text += "%.6f %.6f %.6f\n" * len(vertices) % tuple(vertices.ravel().tolist())
    text += "3 %d %d %d\n" * len(shape.faces) % tuple(shape.faces.ravel().tolist())
    return text.encode()


def parts_bytes(shape: Shape, class_name: str) -> bytes:
    """The face labels as an npz file: ``face_parts`` (F,) uint8 and ``part_names`` (P,)."""
    buffer = io.BytesIO()
    np.savez(buffer, face_parts=shape.face_parts, part_names=np.array(PARTS[class_name]))
    return buffer.getvalue()


def generate(folder: Path, seed: int, train_per_class: int, test_per_class: int) -> None:
    """Write the set as ``<class>/<train|test>/<class>_<number>.off``, parts beside each mesh.

    The labels of ``x.off`` are in ``x.parts.npz``. Each shape is seeded by (seed, class, number),
    test numbers start at 5001: a bigger set contains the smaller one, byte for byte. A file that
    is already there with the right bytes is left alone, so an interrupted run goes on.

    Raises ConfigError for counts out of range, DataError when the folder holds other shapes.
    """
    folder = Path(folder)
    counts = {"train": train_per_class, "test": test_per_class}
    for split, count in counts.items():
        if not 0 <= count <= MOST_PER_CLASS:
            raise ConfigError(f"{count} {split} shapes per class: take 0 to {MOST_PER_CLASS}")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: take 0 or more")
    todo = {
        folder / name / split / f"{name}_{FIRST_NUMBER[split] + i:04d}.off": (name, i, split)
        for name in CLASSES
        for split, count in counts.items()
        for i in range(count)
    }
    strangers = sorted(path for path in folder.glob("*/*/[!.]*.off") if path not in todo)
    if strangers:
        raise DataError(
            f"{folder} holds {len(strangers)} meshes that are not of this set, such as "
            f"{strangers[0].name}: choose an empty folder or remove them"
        )
    for path, (name, i, split) in todo.items():
        shape = make_shape(name, shape_rng(seed, name, FIRST_NUMBER[split] + i))
        _write(path.with_suffix(".parts.npz"), parts_bytes(shape, name))
        _write(path, off_bytes(shape))


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
