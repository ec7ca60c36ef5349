"""Reading OFF files as they are found: joined first lines, polygons, comments, colours.

trimesh reads OFF too, and is not used for it: where a file has polygons of several sizes it orders
the triangles by the size of their polygon, while part labels count faces in the order of the file.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from utils.errors import DataError

# OFF, and its kin with a normal (N), a colour (C) or a texture position (ST) behind every vertex.
_MAGIC = re.compile(rb"\s*(?:ST)?C?N?OFF(?=\s|\d|$)")


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read an OFF mesh; polygons of more than 3 corners are cut into a fan of triangles.

    Accepts ``OFF490 518 0`` on one line, ``#`` comments, either kind of line ends, colours behind
    vertices and faces. Polygons of fewer than 3 corners are left out.

    Returns:
        vertices (V, 3) float64, triangles (F, 3) int64, and for each triangle the number of its
        polygon in the file, (F,) int64.

    Raises:
        DataError: with the reason why this is not a complete OFF mesh. The message does not name
            the file.
    """
    content = path.read_bytes()
    if b"#" in content:
        content = re.sub(rb"#[^\r\n]*", b"", content)
    match = _MAGIC.match(content)
    if match is None:
        raise DataError("not an OFF mesh: the file does not begin with OFF")
    lines = [line for line in content[match.end() :].splitlines() if line.strip()]
    try:
        num_vertices, num_faces = (int(word) for word in lines[0].split()[:2])
    except (IndexError, ValueError):
        raise DataError("no counts of vertices and faces after OFF") from None
    if num_vertices < 0 or num_faces < 0:
        raise DataError(f"negative counts: {num_vertices} vertices, {num_faces} faces")
    if len(lines) < 1 + num_vertices + num_faces:
        raise DataError(
            f"truncated: {len(lines) - 1} lines of data for the {num_vertices} vertices and "
            f"{num_faces} faces announced"
        )
    vertices = _read_vertices(lines[1 : 1 + num_vertices])
    return vertices, *_read_faces(lines[1 + num_vertices : 1 + num_vertices + num_faces])


def _read_vertices(lines: list[bytes]) -> np.ndarray:
    try:
        # As one array, which unequal lengths (a colour behind some vertices only) would scramble.
        (width,) = {len(line.split()) for line in lines} or {3}
        vertices = np.array(b" ".join(lines).split(), dtype=np.float64).reshape(-1, width)[:, :3]
    except ValueError:
        # Words that are no numbers, or vertices of unequal length: say which.
        vertices = np.array([_read_vertex(line) for line in lines])
    if len(lines) and vertices.shape[1] < 3:
        raise DataError(f"a vertex of {vertices.shape[1]} coordinates, expected 3")
    return vertices.reshape(-1, 3)


def _read_vertex(line: bytes) -> list[float]:
    try:
        x, y, z = (float(word) for word in line.split()[:3])
    except ValueError:
        raise DataError(f"not a vertex: {line[:40].decode(errors='replace')!r}") from None
    return [x, y, z]


def _read_faces(lines: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    try:
        polygons = [
            [int(word) for word in words[1 : 1 + int(words[0])]]
            for words in map(bytes.split, lines)
        ]
        announced = np.array([int(line.split(None, 1)[0]) for line in lines], dtype=np.int64)
        flat = np.array([corner for polygon in polygons for corner in polygon], dtype=np.int64)
    except (ValueError, OverflowError):
        raise DataError("truncated or damaged: a face is not a list of vertex numbers") from None
    corners = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
    if (corners != announced).any():
        raise DataError("truncated: a face has fewer vertex numbers than it announces")
    triangles = (corners - 2).clip(min=0)
    polygon = np.repeat(np.arange(len(corners)), triangles)
    # Triangle k of a polygon that starts at s is the fan (s, s + k + 1, s + k + 2).
    start = (np.cumsum(corners) - corners)[polygon]
    step = np.arange(len(polygon)) - (np.cumsum(triangles) - triangles)[polygon]
    return flat[np.stack([start, start + step + 1, start + step + 2], axis=1)], polygon
