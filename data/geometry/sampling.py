"""Points on surfaces, and the order in which they are stored."""

from __future__ import annotations

import numpy as np


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals by the right-hand rule, (F, 3), and areas, (F,); without area the normal is 0.

    Args:
        vertices: (V, 3) float64. faces: (F, 3) int64.
    """
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    cross = np.cross(b - a, c - a)
    length = np.linalg.norm(cross, axis=1)
    normals = np.divide(cross, length[:, None], out=np.zeros_like(cross), where=length[:, None] > 0)
    return normals, length / 2


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Independent points, uniform over the area of the surface.

    A face is drawn in proportion to its area; inside it, with r, s uniform in [0, 1),
    p = (1 - sqrt r) a + sqrt r (1 - s) b + sqrt r s c (Osada et al., TOG 2002).

    Args:
        vertices: (V, 3) float64. faces: (F, 3) int64, of positive total area.

    Returns:
        points (count, 3) float32 and the faces under them (count,) int64.
    """
    _, areas = face_normals(vertices, faces)
    upto = np.cumsum(areas)
    draws = generator.random((count, 3))
    # Faces without area add nothing to the sum: "right" passes over them.
    face = np.searchsorted(upto, draws[:, 0] * upto[-1], side="right")
    face = np.minimum(face, np.flatnonzero(areas)[-1])  # a product rounded up to the very end
    root = np.sqrt(draws[:, 1])
    weights = np.stack([1 - root, root * (1 - draws[:, 2]), root * draws[:, 2]], axis=1)
    points = np.einsum("pk,pkd->pd", weights, vertices[faces[face]])
    return points.astype(np.float32), face


def farthest_point_order(points: np.ndarray, count: int | None = None) -> np.ndarray:
    """Order points so that every prefix is the farthest-point subset of its size.

    Starts at the point farthest from the origin; each next point is the farthest from those before
    it; ties go to the lowest index. Squared distances are rounded to float32 after every operation,
    (dx dx + dy dy) + dz dz, so that any float32 implementation that sums in this order and starts
    at the first point of the reordered cloud finds 0, 1, 2, ... there (distinct points provided).

    Args:
        points: (P, 3) float32. count: how many to choose; all by default.

    Returns:
        (count,) int64, distinct indices.
    """
    x, y, z = np.ascontiguousarray(points.T, dtype=np.float32)
    count = len(x) if count is None else min(count, len(x))
    order = np.empty(count, dtype=np.int64)
    nearest = np.full(len(x), np.inf, dtype=np.float32)
    square, term = np.empty_like(x), np.empty_like(x)
    current = int(np.argmax(x * x + y * y + z * z))
    for step in range(count):
        order[step] = current
        np.subtract(x, x[current], out=square)
        np.multiply(square, square, out=square)
        for axis in (y, z):
            np.subtract(axis, axis[current], out=term)
            np.multiply(term, term, out=term)
            np.add(square, term, out=square)
        np.minimum(nearest, square, out=nearest)
        nearest[current] = -1  # below every distance: duplicates are taken last, none twice
        current = int(nearest.argmax())
    return order
