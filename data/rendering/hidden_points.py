"""Visibility of clouds: hidden point removal, and the choice between it and splats.

Hidden point removal (Katz, Tal, Basri, "Direct visibility of point sets", SIGGRAPH 2007) needs no
normals, no image and no spacing. With q = p - c as seen from the camera c, each point is flipped
to the far side of a sphere of radius R around c,

    q' = q + 2 (R - |q|) q / |q|,

and p is visible if and only if q' is a vertex of the convex hull of all q' and the camera (at 0).
A larger R sees more points, up to those on the far side. Points further apart hide less, so R has
to grow with their number; it is given by its factor in R = factor P max |q|.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from data.rendering.cameras import Cameras
from data.rendering.splats import LEAST_POINTS, Splats, check_cloud, see_splats
from utils.errors import ConfigError, DataError

VISIBILITIES = ("splat", "hpr")
DEFAULT_VISIBILITY = "hpr"  # nearer to ray casting than splats, see data/README.md

# The best of those measured there for 512 to 2,048 points. PointVST's R = 0.05 P times the diagonal
# of the bounding box is about the same.
HPR_RADIUS = 0.03


def hidden_point_removal(
    points: np.ndarray, centres: np.ndarray, radius: float = HPR_RADIUS
) -> np.ndarray:
    """Visibility of a cloud from camera centres.

    Equal points share their visibility. A camera in the plane of a flat cloud makes the hull flat:
    it is then computed from minutely displaced points (Qhull's joggled input).

    Args:
        points: (P, 3). centres: (V, 3), outside the bounding box of the points.
        radius: the factor in R = radius P max |q|, which is never less than max |q|.

    Returns:
        (P, V) bool.

    Raises:
        ConfigError: radius out of range. DataError: as ``check_cloud``, or fewer than four
            distinct points.
    """
    if not 0 < radius < np.inf:
        raise ConfigError(f"hidden point removal with radius {radius}: expected more than 0")
    check_cloud(points, centres)
    factor = max(radius * len(points), 1.0)  # the sphere has to contain the cloud
    distinct, place = np.unique(points.astype(np.float64), axis=0, return_inverse=True)
    if len(distinct) < LEAST_POINTS:
        raise DataError(f"a cloud of {len(distinct)} distinct points: expected 4 or more")
    seen = np.zeros((len(distinct), len(centres)), dtype=bool)
    for view, centre in enumerate(centres):
        rays = distinct - centre
        distance = np.linalg.norm(rays, axis=1, keepdims=True)
        flipped = rays * (2 * factor * distance.max() / distance - 1)
        hull = _hull_vertices(np.concatenate([flipped, np.zeros((1, 3))]))
        seen[hull[hull < len(distinct)], view] = True
    return seen[place.ravel()]


def _hull_vertices(points: np.ndarray) -> np.ndarray:
    try:
        return ConvexHull(points).vertices
    except QhullError:
        return ConvexHull(points, qhull_options="QJ").vertices


def see_from_views(
    points: np.ndarray,
    cameras: Cameras,
    method: str = DEFAULT_VISIBILITY,
    radius: float = HPR_RADIUS,
    splats: Splats | None = None,
) -> np.ndarray:
    """Visibility (P, V) bool of a cloud (P, 3) by ``splat`` or ``hpr`` with its ``radius``.

    ``splats`` as in ``see_splats``. Raises ConfigError for another method, and as the methods do.
    """
    if method not in VISIBILITIES:
        raise ConfigError(f"unknown visibility {method!r}, there are {', '.join(VISIBILITIES)}")
    if method == "hpr":
        return hidden_point_removal(points, cameras.centres, radius)
    return see_splats(points, cameras, splats=splats)
