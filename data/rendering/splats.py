"""Views and visibility of clouds: every point is a small disc on its estimated tangent plane.

A disc of radius r with unit normal n around the camera-space point p has the second moments
r^2 (I - n n^T). Carried to (u, v, depth) by the Jacobian J of the projection at p, as in surface
splatting (Zwicker et al., SIGGRAPH 2001), they say what is seen of it:

    M = r^2 J (I - n n^T) J^T,    S = M[uv, uv] + FILTER I
    outline        rho(x) = x^T S^-1 x <= 1         x = pixel centre - projection of p
    depth in it    z(x) = p_z + M[z, uv] S^-1 x

which is the disc's own ellipse and plane as long as they span pixels. Overlapping discs of one
surface would fight for the front at random, so each is a dome: z(x) + DOME r rho(x) decides, and a
pixel shows the point that is nearest to it on the front surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from data.rendering.cameras import Cameras, project
from data.rendering.rays import AMBIENT, BACKGROUND, HEADLIGHT, SHADINGS, SKY, SKY_DIRECTION
from utils.errors import ConfigError, DataError

SPLATS = 1  # raise it whenever the same cloud and cameras give other pixels: recipes hash it

# Sizes are in units of the spacing, the distance from a point to its 4th neighbour: about 1.1 over
# the root of the density, be the points spread evenly or at random. Chosen on the embedded shapes,
# see data/README.md.
NEIGHBOUR = 4
RADIUS = 1.0  # smaller discs leave holes in surfaces, bigger ones close those of chair backs
TOLERANCE = 0.6  # a point this far behind the front surface belongs to it
LARGEST = 2.0  # times the mean: a stray point is no big disc
DOME = 1.5  # height of a dome in radii: agrees with rays a little better than flatter ones

# (half the diagonal of a pixel)^2: each disc, also one seen from its edge, then covers the pixel
# that its centre falls into.
FILTER = 0.5
LEAST_POINTS = 4
CHUNK = 65536  # pixels tested at once


@dataclass(frozen=True)
class Splats:
    """What the discs of P points cover in V images of S x S pixels.

    Attributes:
        point_index: (V, S, S) int32, the point seen by each pixel, -1 for none.
        centres: (V, P, 3) float64, the points as u and v in pixels and depth.
        slopes: (V, P, 2) float64, the change of a disc's depth by pixel along u and v.
        spacing: mean distance of a point to its 4th neighbour.
    """

    point_index: np.ndarray
    centres: np.ndarray
    slopes: np.ndarray
    spacing: float


def estimate_normals(points: np.ndarray, k: int = 16) -> np.ndarray:
    """Unit normals (P, 3) float64 of a cloud (P, 3): the direction of least spread of k neighbours.

    The point itself is one of the k. Signs mean nothing.
    """
    _, neighbours = cKDTree(points).query(points, k=range(1, min(k, len(points)) + 1))  # (P, k)
    patches = points[neighbours].astype(np.float64)
    patches -= patches.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(patches.transpose(0, 2, 1) @ patches)  # eigenvalues ascend
    return axes[..., 0]


def draw_splats(
    points: np.ndarray,
    normals: np.ndarray,
    cameras: Cameras,
    shading: str = "grey",
    splats: Splats | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images of a cloud, shaded as ``data.rendering.rays`` shades meshes, and each pixel's point.

    Args:
        points: (P, 3) inside the unit sphere. normals: (P, 3), unit, of either sign.
        shading: ``grey``, ``depth`` or ``normal``.
        splats: of the same cloud and cameras, where they have been made already.

    Returns:
        images (V, S, S) uint8, with a last axis of 3 for ``normal``, and point_index (V, S, S)
        int32, -1 for the background.

    Raises:
        ConfigError: unknown shading. DataError: as :func:`make_splats`.
    """
    if shading not in SHADINGS:
        raise ConfigError(f"unknown shading {shading!r}, there are {', '.join(SHADINGS)}")
    splats = splats or make_splats(points, normals, cameras)
    view, row, column = np.nonzero(splats.point_index >= 0)
    point = splats.point_index[view, row, column]
    if shading == "depth":
        nearest = np.linalg.norm(cameras.centres, axis=1)[view] - 1
        depth = _depth(splats, view, point, np.stack([column, row], axis=-1) + 0.5)
        values = 254 * ((depth - nearest) / 2).clip(0, 1)
    else:
        values = _shade(points, normals, cameras, shading)[view, point]
    images = np.full((*splats.point_index.shape, *values.shape[1:]), BACKGROUND, dtype=np.uint8)
    images[view, row, column] = np.rint(values)
    return images, splats.point_index


def see_splats(
    points: np.ndarray,
    cameras: Cameras,
    normals: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    splats: Splats | None = None,
) -> np.ndarray:
    """Visibility: whether a point lies on the disc that its pixel shows, or before it.

    Args:
        points: (P, 3) inside the unit sphere. cameras: their image size is the resolution.
        normals: (P, 3), estimated where there are none.
        tolerance: how far behind the disc, in spacings, a point is still seen.
        splats: of the same cloud and cameras, where they have been made already.

    Returns:
        (P, V) bool; a point outside the image is not seen.

    Raises:
        DataError: as :func:`make_splats`.
    """
    if splats is None:
        normals = estimate_normals(check_cloud(points)) if normals is None else normals
        splats = make_splats(points, normals, cameras)
    position, depth = splats.centres[..., :2], splats.centres[..., 2]
    inside = ((position >= 0) & (position < cameras.size)).all(axis=-1)  # (V, P)
    view, point = np.nonzero(inside)
    column, row = position[view, point].astype(int).T
    shown = splats.point_index[view, row, column]
    front = _depth(splats, view, shown, position[view, point])
    inside[view, point] = depth[view, point] <= front + tolerance * splats.spacing
    return inside.T


def make_splats(
    points: np.ndarray, normals: np.ndarray, cameras: Cameras, radius: float = RADIUS
) -> Splats:
    """Discs of ``radius`` spacings, drawn with a depth test; equally near ones: the lowest index.

    Args:
        points: (P, 3). normals: (P, 3), unit, of either sign.

    Raises:
        DataError: as :func:`check_cloud`, or a point behind a camera.
    """
    check_cloud(points, cameras.centres)
    reach = np.array([min(NEIGHBOUR, len(points) - 1) + 1])  # the point itself comes first
    spacing = cKDTree(points).query(points, k=reach)[0][:, 0]  # (P,)
    radii = radius * np.minimum(spacing, LARGEST * spacing.mean())
    position, depth = project(points, cameras.intrinsics, cameras.extrinsics)
    if (depth <= 0).any():
        raise DataError("a point lies behind a camera: normalise the cloud to the unit sphere")
    normals = normals @ cameras.extrinsics[:, :3, :3].transpose(0, 2, 1)  # (V, P, 3)
    # Rows of J: f/z (1, 0, -x/z), f/z (0, 1, -y/z), (0, 0, 1); here times r, columns as (u, v).
    focal = cameras.intrinsics[:, None, [0, 1], [0, 1]]  # (V, 1, 2)
    tangent = (position - cameras.intrinsics[:, None, [0, 1], [2, 2]]) / focal  # x/z and y/z
    scale = radii[:, None] * focal / depth[..., None]  # (V, P, 2)
    across = normals[..., :2] - tangent * normals[..., 2:]
    spread = scale**2 * (1 + tangent**2 - across**2) + FILTER  # S on its diagonal
    mixed = scale.prod(axis=-1) * (tangent.prod(axis=-1) - across.prod(axis=-1))
    with_depth = -radii[:, None] * scale * (tangent + across * normals[..., 2:])  # M[z, uv]
    inverse = np.stack([spread[..., 1], -mixed, spread[..., 0]], axis=-1)  # S^-1 as uu, uv, vv
    inverse /= (spread.prod(axis=-1) - mixed**2)[..., None]
    slopes = with_depth * inverse[..., [0, 2]] + with_depth[..., ::-1] * inverse[..., 1:2]
    centres = np.concatenate([position, depth[..., None]], axis=-1)
    point_index = _paint(centres, slopes, inverse, np.sqrt(spread), DOME * radii, cameras.size)
    return Splats(point_index, centres, slopes, float(spacing.mean()))


def check_cloud(points: np.ndarray, cameras: np.ndarray | None = None) -> np.ndarray:
    """The same points, if they can be drawn.

    Raises:
        DataError: not (P, 3), fewer than four points, values that are not finite, or one of the
            camera centres (V, 3) inside the bounding box of the points.
    """
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < LEAST_POINTS:
        raise DataError(f"a cloud of shape {points.shape}: expected (P, 3) with P >= 4")
    if not np.isfinite(points).all():
        row = np.flatnonzero(~np.isfinite(points).all(axis=1))[0]
        raise DataError(f"point {row} of the cloud is {points[row]}: expected finite coordinates")
    if cameras is not None:
        inside = (cameras >= points.min(axis=0)) & (cameras <= points.max(axis=0))
        if inside.all(axis=1).any():
            view = np.flatnonzero(inside.all(axis=1))[0]
            raise DataError(f"camera {view} is inside the cloud: normalise it to the unit sphere")
    return points


def _paint(
    centres: np.ndarray,
    slopes: np.ndarray,
    inverse: np.ndarray,
    half: np.ndarray,
    dome: np.ndarray,
    size: int,
) -> np.ndarray:
    """The front disc of each pixel, (V, size, size) int32; arguments (V, P, .) and dome (P,)."""
    views, points = centres.shape[:2]
    position, half = centres[..., :2].reshape(-1, 2), half.reshape(-1, 2)
    low = np.ceil(position - half - 0.5).astype(np.int32)
    side = (np.floor(position + half - 0.5).astype(np.int32) - low).max(axis=1) + 1
    # A margin as wide as the widest disc takes what reaches over the edge of the image.
    within = ((position >= 0) & (position < size)).all(axis=1)
    margin = int(side[within].max(initial=0))
    canvas = size + 2 * margin
    view = np.repeat(np.arange(views), points)
    corner = (view * canvas + low[:, 1] + margin) * canvas + low[:, 0] + margin
    rows = [low + 0.5 - position, slopes.reshape(-1, 2), inverse.reshape(-1, 3)]
    rows += [centres[..., 2].reshape(-1, 1), np.tile(dome, views)[:, None]]
    table = np.concatenate(rows, axis=1).astype(np.float32)  # (V * P, 9)
    # The depth's bits above the point's index: the least key is the front disc, ties decided.
    nothing = np.iinfo(np.int64).max
    front = np.full(views * canvas * canvas, nothing)
    for width in np.unique(side[within]):  # discs whose bounding squares have the same side
        discs = np.flatnonzero(within & (side == width))
        steps = np.arange(width)
        ramp, cells = steps.astype(np.float32), steps[:, None] * canvas + steps
        for begin in range(0, len(discs), max(CHUNK // width**2, 1)):  # as much as a cache holds
            chunk = discs[begin : begin + max(CHUNK // width**2, 1)]
            left, top, slope_u, slope_v, uu, uv, vv, depth, height = table[chunk].T[..., None]
            u, v = left + ramp, top + ramp  # (discs, width), from the centre
            rho = (vv * v * v)[:, :, None] + (uu * u * u)[:, None]  # (discs, rows, columns)
            rho += (2 * uv * v)[:, :, None] * u[:, None]
            inside = rho <= 1
            rho *= height[..., None]
            rho += (depth + slope_v * v)[:, :, None]
            rho += (slope_u * u)[:, None]  # now what is compared: the depth of the domes
            point = np.repeat(chunk % points, np.count_nonzero(inside, axis=(1, 2)))
            keys = rho[inside].view(np.int32).astype(np.int64) << 32 | point
            np.minimum.at(front, (corner[chunk, None, None] + cells)[inside], keys)
    index = np.where(front == nothing, -1, front & 0xFFFFFFFF).astype(np.int32)
    edge = slice(margin, margin + size)
    return index.reshape(views, canvas, canvas)[:, edge, edge]


def _depth(splats: Splats, view: np.ndarray, point: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Depth (Q,) of these discs at image positions (Q, 2)."""
    centre = splats.centres[view, point]
    rise = splats.slopes[view, point] * (position - centre[:, :2])
    return centre[:, 2] + rise.sum(axis=1)


def _shade(points: np.ndarray, normals: np.ndarray, cameras: Cameras, shading: str) -> np.ndarray:
    """Values (V, P[, 3]) in 0..255 of points as every camera would see them."""
    rays = points - cameras.centres[:, None]  # (V, P, 3)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    facing = np.einsum("vpd,pd->vp", rays, normals)
    turned = np.where(facing[..., None] > 0, -normals, normals)  # to the viewer
    if shading == "normal":
        return 128 + 127 * turned @ cameras.extrinsics[:, :3, :3].transpose(0, 2, 1)
    return 255 * (AMBIENT + HEADLIGHT * np.abs(facing) + SKY * (turned @ SKY_DIRECTION + 1) / 2)
