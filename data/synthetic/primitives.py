"""Solid building blocks of the embedded shapes: everything is a loft of rings.

Frame of every function: right-handed, z up, an object's front looks along -y; lengths in metres,
angles in degrees. All blocks are closed surfaces with outward winding and no face of zero area.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIDES = 24  # corners of a circle


class Mesh(NamedTuple):
    """A triangle mesh: ``vertices`` (V, 3) float64 and ``faces`` (F, 3) int64."""

    vertices: np.ndarray
    faces: np.ndarray

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        """The mesh shifted by (x, y, z)."""
        return Mesh(self.vertices + (x, y, z), self.faces)

    def scaled(self, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> Mesh:
        """The mesh with every axis multiplied by a positive factor."""
        return Mesh(self.vertices * (x, y, z), self.faces)

    def turned(self, axis: str, degrees: float) -> Mesh:
        """The mesh turned about the ``x``, ``y`` or ``z`` axis, counter-clockwise from its tip."""
        first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        vertices = self.vertices.copy()
        a, b = self.vertices[:, first], self.vertices[:, second]
        vertices[:, first] = cosine * a - sine * b
        vertices[:, second] = sine * a + cosine * b
        return Mesh(vertices, self.faces)


Pieces = list[tuple[str, Mesh]]  # the named parts of one object


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh with the faces of all, in order."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
    )


def face_areas(mesh: Mesh) -> np.ndarray:
    """Area of every face, (F,)."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def select(mesh: Mesh, chosen: np.ndarray) -> Mesh:
    """The faces for which ``chosen`` (F,) bool holds, and no vertex without a face."""
    used, faces = np.unique(mesh.faces[chosen], return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3))


def loft(rings: np.ndarray) -> Mesh:
    """Skin a stack of rings (R, K, 3) and close both ends with a fan about the ring's mean.

    A ring may shrink to a point (the pole of a sphere, the bottom of a bottle): the faces that
    vanish there are dropped.
    """
    count, corners = rings.shape[:2]
    here = np.arange(count * corners).reshape(count, corners)
    side = np.roll(here, -1, axis=1)
    low, high = count * corners, count * corners + 1
    start = np.broadcast_to(low, corners)
    end = np.broadcast_to(high, corners)
    faces = np.concatenate(
        [
            np.stack([here[:-1], side[:-1], side[1:]], axis=-1).reshape(-1, 3),
            np.stack([here[:-1], side[1:], here[1:]], axis=-1).reshape(-1, 3),
            np.stack([start, side[0], here[0]], axis=-1),
            np.stack([end, here[-1], side[-1]], axis=-1),
        ]
    )
    vertices = np.concatenate([rings.reshape(-1, 3), rings[[0, -1]].mean(axis=1)])
    return _tidy(Mesh(vertices, faces))


def _tidy(mesh: Mesh) -> Mesh:
    """Drop faces without area and wind the others outwards."""
    areas = face_areas(mesh)
    vertices, faces = select(mesh, areas > 1e-6 * areas.max())
    a, b, c = (vertices[faces[:, i]] - vertices.mean(axis=0) for i in range(3))
    signed_volume = np.einsum("fi,fi->", a, np.cross(b, c))
    return Mesh(vertices, faces if signed_volume > 0 else faces[:, ::-1])


def outline(width: float, depth: float, power: float = np.inf, sides: int = SIDES) -> np.ndarray:
    """A superellipse about the origin, (K, 2): power 2 an ellipse, 4 and up a rounded rectangle.

    Infinite power is the rectangle itself, with its four corners only.
    """
    if np.isinf(power):
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, depth / 2)
    angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.sign(circle) * np.abs(circle) ** (2 / power) * (width / 2, depth / 2)


def prism(shape: np.ndarray, height: float) -> Mesh:
    """An outline (K, 2) in the ground plane, raised from z = 0 to ``height``."""
    level = np.broadcast_to(np.reshape([0.0, height], (2, 1, 1)), (2, len(shape), 1))
    return loft(np.concatenate([np.broadcast_to(shape, (2, *shape.shape)), level], axis=2))


def box(width: float, depth: float, height: float) -> Mesh:
    """A box that stands on z = 0, centred on the z axis."""
    return prism(outline(width, depth), height)


def lathe(profile: Sequence[tuple[float, float]] | np.ndarray, sides: int = SIDES) -> Mesh:
    """The surface of revolution of a profile of (radius, z) rows about the z axis."""
    radius, z = np.asarray(profile, dtype=float).T
    angle = 2 * np.pi * np.arange(sides) / sides
    rings = np.empty((len(z), sides, 3))
    rings[..., 0] = radius[:, None] * np.cos(angle)
    rings[..., 1] = radius[:, None] * np.sin(angle)
    rings[..., 2] = z[:, None]
    return loft(rings)


def frustum(bottom: float, top: float, height: float) -> Mesh:
    """A cylinder or cut cone on z = 0 with the given bottom and top radius."""
    return lathe([(bottom, 0.0), (top, height)])


def ellipsoid(width: float, depth: float, height: float) -> Mesh:
    """An ellipsoid about the origin with the given diameters."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 11)
    ball = lathe(np.stack([np.cos(angle), np.sin(angle)], axis=1) / 2, sides=16)
    return ball.scaled(width, depth, height)


def vessel(outer: np.ndarray, wall: float) -> Mesh:
    """A solid of revolution, hollow and open at the top.

    ``outer`` (P, 2) is the outside as (radius, z) rows from the foot at z = 0 up to the rim,
    ``wall`` the thickness of wall and floor.
    """
    radius, z = outer.T
    inner_z = np.append(z[z > wall][::-1], wall)
    inner_radius = np.interp(inner_z, z, radius) - wall
    inner_radius = np.maximum(inner_radius, 0.1 * radius.max())  # a narrow neck stays open
    inner = np.stack([inner_radius, inner_z], axis=1)
    return lathe(np.concatenate([[(0.0, z[0])], outer, inner, [(0.0, wall)]]))


def tube(path: Sequence | np.ndarray, radius: float | Sequence[float], sides: int = 8) -> Mesh:
    """A rod along a path (P, 3); ``radius`` is one number or one for each point of the path.

    With four sides ``radius`` reaches to the corners, and an upright rod has its faces across
    the axes. The path must be flat enough to leave one coordinate axis off its tangents.
    """
    path = np.asarray(path, dtype=float)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    reference = np.eye(3)[np.abs(tangent).max(axis=0).round(6).argmin()]
    across = reference - (tangent @ reference)[:, None] * tangent
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    upward = np.cross(tangent, across)
    angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    spokes = np.cos(angle)[:, None] * across[:, None] + np.sin(angle)[:, None] * upward[:, None]
    return loft(path[:, None] + np.reshape(radius, (-1, 1, 1)) * spokes)  # (P, sides, 3)


def beam(stations: Sequence[tuple[float, float, float, float, float]]) -> Mesh:
    """A long body along y from rows of (y, width below, width above, z below, z above)."""
    y, below, above, low, high = np.asarray(stations, dtype=float).T
    x = np.stack([-below, below, above, -above], axis=1) / 2
    z = np.stack([low, low, high, high], axis=1)
    return loft(np.stack([x, np.broadcast_to(y[:, None], x.shape), z], axis=2))


def smooth(points: Sequence[tuple[float, float]], count: int = 16) -> np.ndarray:
    """A curve of ``count`` rows through control points (P, 2), monotone between neighbours.

    The second column must increase; the first is eased from point to point with a half cosine,
    so that it never leaves the range of the two control points around it.
    """
    value, key = np.asarray(points, dtype=float).T
    t = np.union1d(np.linspace(key[0], key[-1], count), key)
    left = np.clip(np.searchsorted(key, t, side="right") - 1, 0, len(key) - 2)
    share = (t - key[left]) / (key[left + 1] - key[left])
    eased = (1 - np.cos(np.pi * share)) / 2
    return np.stack([value[left] + eased * (value[left + 1] - value[left]), t], axis=1)
