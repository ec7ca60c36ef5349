"""The part labels of a mesh: files beside it that give a part to every face.

Two kinds of files belong to ``x.off``; faces are counted as in the mesh's file:

    x.parts.npz    ``face_parts`` (F,) whole numbers, places in ``part_names``
    x_labels.txt   a line with a part's name, then a line with its faces, counted from 1, and so on
                   (the labelled Princeton set: Kalogerakis, Hertzmann, Singh, SIGGRAPH 2010)
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from data.parts import MOST_PARTS
from utils.errors import DataError

PARTS_SUFFIX = ".parts.npz"
LABELS_SUFFIX = "_labels.txt"


def read_labels(path: Path, polygon: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The parts of a mesh's triangles from its file of labels.

    Args:
        polygon: (F,) int64, for each triangle the number of its face in the mesh's file.

    Returns:
        (F,) uint8, places in the names that follow.

    Raises:
        DataError: unreadable, or labels that do not fit the mesh; names file and, in text, line.
    """
    read = _read_npz if path.name.endswith(PARTS_SUFFIX) else _read_text
    face_parts, names = read(path, int(polygon.max()) + 1)
    if len(names) > MOST_PARTS:
        raise DataError(f"part labels {path.name}: {len(names)} parts, at most {MOST_PARTS} fit")
    return face_parts[polygon].astype(np.uint8), names


def _read_npz(path: Path, num_faces: int) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        with np.load(path) as file:
            face_parts, part_names = file["face_parts"], file["part_names"]
    except (
        *(OSError, KeyError, ValueError, TypeError, EOFError),
        *(NotImplementedError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DataError(f"unreadable part labels {path.name}: {error}") from error
    if face_parts.ndim != 1 or face_parts.dtype.kind not in "iu" or part_names.ndim != 1:
        raise DataError(
            f"part labels {path.name} do not fit: face_parts is {face_parts.dtype} "
            f"{face_parts.shape} and part_names {part_names.shape}, expected whole numbers (F,) "
            "and names (P,)"
        )
    numbers = face_parts[:num_faces]
    if len(numbers) < num_faces or numbers.min() < 0 or numbers.max() >= len(part_names):
        raise DataError(
            f"part labels {path.name} do not fit: {len(face_parts)} labels for {num_faces} faces, "
            f"or labels beyond the {len(part_names)} names"
        )
    names = tuple(str(name) for name in part_names)
    if len(set(names)) < len(names):
        raise DataError(f"part labels {path.name}: part_names names a part twice")
    return face_parts, names


def _read_text(path: Path, num_faces: int) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        lines = enumerate(path.read_text().splitlines(), 1)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"unreadable part labels {path.name}: {error}") from error
    rows = [(number, line.strip()) for number, line in lines if line.strip()]
    if len(rows) % 2:
        raise DataError(
            f"part labels {path.name}, line {rows[-1][0]}: no line of faces after it; is the file "
            "truncated?"
        )
    names: list[str] = []
    face_parts = np.full(num_faces, -1, np.int64)
    for (name_line, name), (line, text) in zip(rows[::2], rows[1::2], strict=True):
        if name.replace(" ", "").isdigit():
            raise DataError(
                f"part labels {path.name}, line {name_line}: numbers, expected the name of a part"
            )
        faces = _read_faces(text, num_faces, f"part labels {path.name}, line {line}")
        taken = faces[face_parts[faces] >= 0]
        if len(taken):
            raise DataError(
                f"part labels {path.name}, line {line}: face {taken[0] + 1} of {name} belongs to "
                f"{names[face_parts[taken[0]]]} already"
            )
        if name not in names:
            names.append(name)
        face_parts[faces] = names.index(name)
    bare = np.flatnonzero(face_parts < 0)
    if len(bare):
        raise DataError(
            f"part labels {path.name}: {len(bare)} of {num_faces} faces have no part, such as face "
            f"{bare[0] + 1}; is the file truncated?"
        )
    return face_parts, tuple(names)


def _read_faces(text: str, num_faces: int, where: str) -> np.ndarray:
    """Face numbers counted from 0, each once."""
    try:
        faces = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise DataError(f"{where}: expected face numbers, found {text[:40]!r}") from None
    outside = faces[(faces < 1) | (faces > num_faces)]
    if len(outside):
        raise DataError(f"{where}: face {outside[0]}, and the mesh has faces 1 to {num_faces}")
    unique, counts = np.unique(faces, return_counts=True)
    if len(unique) < len(faces):
        raise DataError(f"{where}: face {unique[counts > 1][0]} stands there twice")
    return unique - 1
