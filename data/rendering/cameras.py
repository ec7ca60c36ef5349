"""Named camera recipes: where the views are taken from, the matrices that say so, and the bits that
say which camera sees which point.

World: right-handed, z up, the object inside the unit sphere around the origin. Camera (the OpenCV
convention): x right, y down, z forward; a world point X is seen at K (E X), divided by its depth.
Image coordinates are in pixels, u right and v down from the upper left corner of the image, so the
centre of pixel (row i, column j) is at (u, v) = (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.errors import ConfigError

# At distance d the unit sphere spans 2 asin(1/d): 38.9 degrees of the 40 at distance 3.
DISTANCE = 3.0
FIELD_OF_VIEW = 40.0


@dataclass(frozen=True)
class Rig:
    """Cameras on a sphere around the object, all looking at its centre.

    Attributes:
        directions: (azimuth, elevation) in degrees of each camera as seen from the origin; azimuth
            0 is +x and turns towards +y, elevation 0 is the horizon and 90 straight above.
        distance: of each camera from the origin, in radii of the unit sphere.
        field_of_view: full angle in degrees between opposite sides of the square image.
    """

    directions: tuple[tuple[float, float], ...]
    distance: float = DISTANCE
    field_of_view: float = FIELD_OF_VIEW


def ring(count: int, *elevations: float) -> tuple[tuple[float, float], ...]:
    """``count`` evenly spaced azimuths at each elevation in turn."""
    return tuple((360.0 * step / count, tilt) for tilt in elevations for step in range(count))


RIGS: dict[str, Rig] = {
    # the ring of MVCNN (Su et al., ICCV 2015)
    "ring12": Rig(ring(12, 30.0)),
    # paper: PointMCD uses 2 elevations x 8 azimuths and does not say which elevations
    # here: 30 above and 30 below, because together they see nearly all of a surface
    "dual16": Rig(ring(8, 30.0, -30.0)),
}


@dataclass(frozen=True)
class Cameras:
    """V calibrated cameras.

    Attributes:
        intrinsics: (V, 3, 3) float64, pixels.
        extrinsics: (V, 4, 4) float64, world to camera, rigid.
        size: side of the square image in pixels.
    """

    intrinsics: np.ndarray
    extrinsics: np.ndarray
    size: int

    @property
    def centres(self) -> np.ndarray:
        """(V, 3) camera centres in the world."""
        rotation, shift = self.extrinsics[:, :3, :3], self.extrinsics[:, :3, 3]
        return -np.einsum("vji,vj->vi", rotation, shift)


def find_rig(name: str) -> Rig:
    """The rig of that name; ConfigError with the nearest name for an unknown one."""
    if name not in RIGS:
        near = difflib.get_close_matches(name, RIGS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown recipe {name!r}, there are {', '.join(RIGS)}{hint}")
    return RIGS[name]


def make_cameras(rig: Rig, size: int) -> Cameras:
    """The matrices of a rig for images of ``size`` x ``size`` pixels."""
    azimuth, elevation = np.radians(np.array(rig.directions)).T
    cos_a, sin_a, cos_e, sin_e = (f(x) for x in (azimuth, elevation) for f in (np.cos, np.sin))
    forward = -np.stack([cos_a * cos_e, sin_a * cos_e, sin_e], axis=-1)  # (V, 3)
    # Horizontal by construction, which is forward x up and stays defined straight above.
    right = np.stack([-sin_a, cos_a, np.zeros_like(cos_a)], axis=-1)
    down = np.cross(forward, right)
    extrinsics = np.tile(np.eye(4), (len(azimuth), 1, 1))
    extrinsics[:, :3, :3] = np.stack([right, down, forward], axis=1)
    extrinsics[:, 2, 3] = rig.distance  # the origin lies straight ahead of every camera
    focal = size / 2 / np.tan(np.radians(rig.field_of_view) / 2)
    matrix = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Cameras(np.tile(matrix, (len(azimuth), 1, 1)), extrinsics, size)


def project(
    points: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Project world points into every view.

    Args:
        points: (P, 3). intrinsics: (V, 3, 3). extrinsics: (V, 4, 4).

    Returns:
        pixels (V, P, 2), as (u, v), and depth (V, P) along the optical axis; a point at or behind
        a camera has depth <= 0 and no meaningful pixel.
    """
    in_camera = points @ extrinsics[:, :3, :3].transpose(0, 2, 1) + extrinsics[:, None, :3, 3]
    depth = in_camera[..., 2]  # (V, P)
    image = in_camera @ intrinsics.transpose(0, 2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return image[..., :2] / image[..., 2:], depth


def pixel_rays(cameras: Cameras, view: int, rows: range, columns: range) -> np.ndarray:
    """Unit directions in the world through these pixels' centres: (rows, columns, 3) float64."""
    v, u = np.meshgrid(
        np.array(rows) + 0.5,
        np.array(columns) + 0.5,
        indexing="ij",
    )
    matrix = cameras.intrinsics[view]
    x, y = (u - matrix[0, 2]) / matrix[0, 0], (v - matrix[1, 2]) / matrix[1, 1]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ cameras.extrinsics[view, :3, :3]
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def describe_recipe(name: str, size: int, shading: str, renderer: int | str) -> dict[str, Any]:
    """Everything that decides what the views look like, as stored with the data."""
    rig = find_rig(name)
    return {
        "name": name,
        "directions": [list(direction) for direction in rig.directions],
        "distance": rig.distance,
        "field_of_view": rig.field_of_view,
        "image_size": size,
        "shading": shading,
        "renderer": renderer,
    }


def hash_recipe(recipe: dict[str, Any]) -> str:
    """12 hex digits over all of a recipe but its name, the same on every machine."""
    content = {key: value for key, value in recipe.items() if key != "name"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def pack_visibility(visible: np.ndarray) -> np.ndarray:
    """(..., V) bool -> (..., ceil(V/8)) uint8, view 0 in the lowest bit of the first byte."""
    return np.packbits(visible, axis=-1, bitorder="little")


def unpack_visibility(packed: np.ndarray, num_views: int) -> np.ndarray:
    """(..., ceil(V/8)) uint8 -> (..., V) bool, the inverse of :func:`pack_visibility`."""
    return np.unpackbits(packed, axis=-1, count=num_views, bitorder="little").astype(bool)
