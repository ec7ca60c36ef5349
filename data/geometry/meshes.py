"""Reading meshes of several formats into one frame: right-handed, z up, in the unit sphere."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from data.geometry.off import read_off
from data.geometry.part_labels import LABELS_SUFFIX, PARTS_SUFFIX, read_labels
from data.geometry.sampling import face_normals
from utils.errors import ConfigError, DataError

SUFFIXES = (".off", ".obj", ".ply", ".stl", ".glb")

# Rotations (never reflections) that carry the named axis of a file to our z.
_TO_Z_UP = {
    "x": np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "z": np.eye(3),
}
UP_AXES = tuple(_TO_Z_UP)


@dataclass
class LabelledMesh:
    """A triangle mesh, perhaps with a part number for every face.

    Attributes:
        vertices: (V, 3) float64. faces: (F, 3) int64.
        face_parts: (F,) uint8, places in ``part_names``; None without part labels.
        part_names: empty without part labels.
    """

    vertices: np.ndarray
    faces: np.ndarray
    face_parts: np.ndarray | None = None
    part_names: tuple[str, ...] = ()


def load_mesh(path: str | Path) -> LabelledMesh:
    """Read a mesh as it is in the file: units, axes and duplicate vertices are kept.

    OFF is read here, the other formats by trimesh; the objects of a GLB or OBJ scene are merged at
    their places. (glTF is y up by its standard, so GLB files usually want ``--up y``.) Beside the
    mesh may lie a file with a part for every face: see ``data.geometry.part_labels``. Vertices that
    no face uses are dropped.

    Raises:
        DataError: with the reason why the mesh cannot be used, without the file's name: unknown
            format, unreadable, truncated, no faces, bad vertex numbers, not finite, no area,
            or parts that do not fit.
    """
    path = Path(path)
    if path.suffix.lower() == ".off":
        try:
            vertices, faces, polygon = read_off(path)
        except OSError as error:
            raise DataError(f"unreadable: {error.strerror or error}") from error
    else:
        vertices, faces = _read_with_trimesh(path)
        polygon = np.arange(len(faces))
    if len(faces) == 0:
        raise DataError("no faces")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError(
            f"vertex numbers from {faces.min()} to {faces.max()} for {len(vertices)} vertices"
        )
    used, faces = np.unique(faces, return_inverse=True)
    mesh = LabelledMesh(vertices[used], faces.reshape(-1, 3))
    if not np.isfinite(mesh.vertices).all():
        raise DataError("coordinates that are not finite")
    _check_area(mesh)
    labels = label_file(path)
    if labels is not None:
        mesh.face_parts, mesh.part_names = read_labels(labels, polygon)
    return mesh


def label_file(mesh: Path) -> Path | None:
    """The file with the part labels of a mesh, None where there is none; npz goes before text."""
    stem = os.path.splitext(mesh)[0]  # asked for every mesh, several times: not by pathlib
    for suffix in (PARTS_SUFFIX, LABELS_SUFFIX):
        if os.path.isfile(stem + suffix):
            return Path(stem + suffix)
    return None


def _check_area(mesh: LabelledMesh) -> None:
    extent = np.ptp(mesh.vertices, axis=0).max()
    if not 0 < extent < np.inf:
        raise DataError("no area" if extent == 0 else "coordinates out of range")
    scaled = (mesh.vertices - mesh.vertices[0]) / extent  # so that tiny and huge units fare alike
    if face_normals(scaled, mesh.faces)[1].sum() < 1e-12:
        raise DataError("no area")


def _read_with_trimesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"format {path.suffix or 'without suffix'} is none of {', '.join(SUFFIXES)}"
        )
    if path.suffix.lower() == ".ply":
        check_ply_length(path)
    logging.getLogger("trimesh").setLevel(logging.CRITICAL)  # the reason goes into our message
    try:
        mesh = trimesh.load_scene(path, process=False).to_mesh()
        return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    # trimesh's readers raise whatever the damage leads to, from KeyError to struct.error.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"unreadable {path.suffix[1:]}: {reason}") from error


def check_ply_length(path: Path) -> None:
    """Refuse a PLY in text form that has fewer lines than its header announces.

    trimesh takes what is there of such a file; of a truncated binary PLY it says so itself.

    Raises:
        DataError: truncated, or the file cannot be read.
    """
    try:
        header, _, body = path.read_bytes().partition(b"end_header")
    except OSError as error:
        raise DataError(f"unreadable: {error.strerror or error}") from error
    if re.search(rb"^format\s+ascii", header, re.MULTILINE) is None:
        return
    announced = sum(map(int, re.findall(rb"^element\s+\S+\s+(\d+)", header, re.MULTILINE)))
    lines = sum(bool(line.strip()) for line in body.splitlines())
    if lines < announced:
        raise DataError(f"truncated: {lines} lines of data for the {announced} announced")


def turn_up(points: np.ndarray, up: str) -> np.ndarray:
    """Rotate points (N, 3) so that the file's ``up`` axis becomes z.

    ``y``: (x, y, z) -> (x, -z, y). ``x``: (x, y, z) -> (-z, y, x). Both are rotations.

    Raises:
        ConfigError: ``up`` is none of x, y, z.
    """
    if up not in _TO_Z_UP:
        raise ConfigError(f"up axis {up!r}, expected one of {', '.join(UP_AXES)}")
    return points @ _TO_Z_UP[up].T.astype(points.dtype)


def into_unit_sphere(points: np.ndarray) -> np.ndarray:
    """Centre the bounding box of points (N, 3) on the origin and put the farthest at distance 1.

    The bounding box, unlike the mean, does not depend on how densely a surface is tessellated.
    """
    centred = points - (points.min(axis=0) + points.max(axis=0)) / 2
    centred = centred / np.abs(centred).max()  # first, so that no unit overflows in the squares
    return centred / np.linalg.norm(centred, axis=1).max()
