"""Reading single clouds from files, to classify them without a prepared set."""

from __future__ import annotations

import tokenize
import zipfile
from pathlib import Path

import numpy as np
import trimesh

from data.geometry.meshes import check_ply_length, into_unit_sphere, load_mesh, turn_up
from data.geometry.off import read_off
from data.geometry.sampling import sample_surface
from utils.errors import DataError

SUFFIXES = (".ply", ".xyz", ".txt", ".npy", ".off")
FEWEST_POINTS = 32
SURFACE_POINTS = 2048  # drawn from a file that is a mesh, as many as a prepared set has


def read_cloud(path: str | Path) -> np.ndarray:
    """Read a cloud as it is in the file, in its own units and axes.

    ``.xyz`` and ``.txt``: one point per line, numbers parted by spaces, commas or semicolons, ``#``
    begins a comment. ``.npy``: an array (N, 3 or more). Columns behind x, y, z are left out.
    ``.ply``, ``.off``: the vertices; where the file has faces, ``SURFACE_POINTS`` points uniform
    over their surface instead, always the same, because a network learns surfaces and the vertices
    of a mesh are a poor sample of its surface.

    Returns:
        (N, 3) float64: a scan in map coordinates, 4,600,000 metres from their origin, would lose
        everything below half a metre in float32. :func:`normalise_cloud` comes next.

    Raises:
        DataError: no file, unknown format, unreadable, fewer than 3 columns or ``FEWEST_POINTS``
            points, values that are not finite, all points in one place.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no cloud at {path}: expected a file of {', '.join(SUFFIXES)}")
    readers = {".npy": _read_npy, ".off": _read_off, ".ply": _read_ply}
    readers |= {".xyz": _read_text, ".txt": _read_text}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} has suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    try:
        points = readers[path.suffix.lower()](path)
        _check(points)
    except DataError as error:
        raise DataError(f"cloud {path}: {error}") from error
    return points[:, :3].astype(np.float64)


def _check(points: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f"array of shape {points.shape}, expected (N, 3): x, y, z of every point")
    if len(points) < FEWEST_POINTS:
        raise DataError(f"{len(points)} points, expected {FEWEST_POINTS} or more")
    with np.errstate(over="ignore"):
        finite = np.isfinite(points[:, :3].astype(np.float32)).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise DataError(f"{(~finite).sum()} points that are not finite, the first is number {row}")
    if np.ptp(points[:, :3], axis=0).max() == 0:
        raise DataError("all points are in one place")


def _read_npy(path: Path) -> np.ndarray:
    try:
        points = np.load(path, allow_pickle=False)
    # SyntaxError covers the TokenError that a header cut in two leads to from Python 3.12 on.
    except (
        *(OSError, ValueError, EOFError, MemoryError),
        *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile),
    ) as error:
        raise DataError(f"no readable .npy array: {error}") from error
    if not isinstance(points, np.ndarray) or points.dtype.kind not in "fiu":
        raise DataError("no array of real numbers")
    return points


def _read_text(path: Path) -> np.ndarray:
    try:
        text = path.read_text(errors="replace").replace(",", " ").replace(";", " ")
    except OSError as error:
        raise DataError(f"unreadable: {error.strerror or error}") from error
    lines = [line.split("#", 1)[0].split() for line in text.splitlines()]
    rows = [(number, words) for number, words in enumerate(lines, 1) if words]
    if not rows:
        raise DataError("no points")
    short = next((row for row in rows if len(row[1]) < 3), None)
    if short is not None:
        raise DataError(f"line {short[0]} has {len(short[1])} columns, expected x, y, z")
    try:
        return np.array([words[:3] for _, words in rows], dtype=np.float64)
    except ValueError:
        number = next(number for number, words in rows if not all(map(is_number, words[:3])))
        raise DataError(f"line {number} holds a word that is no number") from None


def is_number(word: str | bytes) -> bool:
    """Whether a word of a text file stands for a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_off(path: Path) -> np.ndarray:
    vertices, faces, _ = read_off(path)
    return _sample_mesh(path) if len(faces) else vertices


def _read_ply(path: Path) -> np.ndarray:
    check_ply_length(path)
    try:
        content = trimesh.load(path, process=False)
    # trimesh's reader raises whatever the damage leads to, from KeyError to struct.error.
    except Exception as error:
        raise DataError(f"unreadable ply: {' '.join(str(error).split())[:120]}") from error
    if isinstance(content, trimesh.Trimesh) and len(content.faces):
        return _sample_mesh(path)
    # without any vertex the reader gives a scene, which has none of its own
    return np.asarray(getattr(content, "vertices", np.empty((0, 3))), dtype=np.float64)


def _sample_mesh(path: Path) -> np.ndarray:
    mesh = load_mesh(path)
    generator = np.random.default_rng(0)
    origin = mesh.vertices[0]  # samples are float32, which is fine near 0 only
    return origin + sample_surface(mesh.vertices - origin, mesh.faces, SURFACE_POINTS, generator)[0]


def normalise_cloud(points: np.ndarray, up: str = "z") -> np.ndarray:
    """Bring a cloud (N, 3) into the frame of prepared sets: z up, inside the unit sphere, float32.

    The bounding box of the points stands for that of the mesh, which is not known here.
    """
    return into_unit_sphere(turn_up(points.astype(np.float64), up)).astype(np.float32)
