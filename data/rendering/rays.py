"""Views and visibility by ray casting with Embree: no display, no GL context, no state.

A mesh is a set of triangles seen from both sides, because winding is unreliable in the sets we
read. Images have a white background.
"""

from __future__ import annotations

import numpy as np

from data.geometry.sampling import face_normals
from data.rendering.cameras import Cameras, pixel_rays, project
from utils.errors import ConfigError

RENDERER = 1  # raise it whenever the same mesh and cameras give other pixels: recipes hash it
SHADINGS = ("grey", "depth", "normal")
BACKGROUND = 255

# Light on a face that looks at the camera: some everywhere, a lamp at the camera, and a sky that
# tells top from side. They add up to 0.90, so that no face vanishes in the background.
AMBIENT, HEADLIGHT, SKY = 0.05, 0.40, 0.45
SKY_DIRECTION = np.array([0.36, -0.48, 0.80])  # unit, world

# Surfaces nearer than this before a point (in radii of the unit sphere) do not hide it. It absorbs
# the float32 rounding of stored points and rays (1e-7, over the sine of the angle at which a ray
# leaves its own surface), and walls thinner than this are seen through. On a sphere of 81,920 faces
# and 240,000 point-view pairs, 1e-5 hides 126 points by their own face and 1e-3 shows 62 beyond the
# horizon; 1e-4 balances the two errors, with 14 and 8.
TOLERANCE = 1e-4


class RayScene:
    """A mesh ready for ray queries.

    Args:
        vertices: (V, 3) float64 inside the unit sphere. faces: (F, 3) int64.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        # only meshes need it: clouds are prepared without
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.vertices = vertices
        self.normals, _ = face_normals(vertices, faces)
        # Robust: rays do not slip through the edge between two triangles.
        self._scene = EmbreeScene(robust=True)
        TriangleMesh(self._scene, vertices.astype(np.float32), faces.astype(np.int32))

    def first_hits(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First face met by each ray, -1 for none, and the distance to it in lengths of the ray.

        Args:
            origin: (3,). rays: (R, 3).
        """
        origins = np.broadcast_to(origin, rays.shape).astype(np.float32)
        hits = self._scene.run(origins, rays.astype(np.float32), output=True)
        return hits["primID"], hits["tfar"]

    def is_blocked(self, origins: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Whether a surface lies between each origin and origin + ray: (R, 3), (R, 3) -> (R,)."""
        reach = np.ones(len(rays), dtype=np.float32)
        found = self._scene.run(
            origins.astype(np.float32), rays.astype(np.float32), dists=reach, query="OCCLUDED"
        )
        return found != -1


def see_points(scene: RayScene, points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Visibility: whether the segment from a camera to a point meets no surface before the point.

    The ray runs from ``TOLERANCE`` above the point to the camera: Embree is most exact near the
    origin of a ray, and the surfaces that decide are those near the point. A sheet without
    thickness is seen from both sides.

    Args:
        points: (P, 3) on the surface. centres: (V, 3), outside the unit sphere.

    Returns:
        (P, V) bool.
    """
    rays = centres[None] - points[:, None].astype(np.float64)  # (P, V, 3)
    step = TOLERANCE * rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    origins = points[:, None] + step
    blocked = scene.is_blocked(origins.reshape(-1, 3), (rays - step).reshape(-1, 3))
    return ~blocked.reshape(rays.shape[:2])


def render_views(
    scene: RayScene, cameras: Cameras, shading: str = "grey"
) -> tuple[np.ndarray, np.ndarray]:
    """Images of the scene from every camera, and the face that each pixel shows.

    ``grey``: two-sided shading by a headlight and a soft sky. ``depth``: distance along the optical
    axis, 0 at the near end of the unit sphere to 254 at its far end. ``normal``: the normal turned
    to the viewer, n = (x right, y down, z forward), as 128 + 127 n.

    Returns:
        images (V, size, size) uint8, with a last axis of 3 for ``normal``, and faces
        (V, size, size) int32, -1 for the background. One cast of rays gives both, so a label image
        that is made from ``faces`` fits its view to the pixel.

    Raises:
        ConfigError: unknown shading.
    """
    if shading not in SHADINGS:
        raise ConfigError(f"unknown shading {shading!r}, there are {', '.join(SHADINGS)}")
    channels = (3,) if shading == "normal" else ()
    shape = (len(cameras.intrinsics), cameras.size, cameras.size, *channels)
    images = np.full(shape, BACKGROUND, dtype=np.uint8)
    faces = np.full(shape[:3], -1, dtype=np.int32)
    pixels, _ = project(scene.vertices, cameras.intrinsics, cameras.extrinsics)  # (V, vertices, 2)
    lows = np.floor(pixels.min(axis=1)).astype(int).clip(0, cameras.size)
    highs = np.ceil(pixels.max(axis=1)).astype(int).clip(0, cameras.size)
    for view, (low, high) in enumerate(zip(lows, highs, strict=True)):
        # No ray outside the bounding rectangle of the mesh can meet it.
        window = (view, slice(low[1], high[1]), slice(low[0], high[0]))
        rays = pixel_rays(cameras, view, range(low[1], high[1]), range(low[0], high[0]))
        face, values = _shade(scene, cameras, view, rays.reshape(-1, 3), shading)
        faces[window] = face.reshape(rays.shape[:2])
        images[window][faces[window] >= 0] = np.rint(values)
    return images, faces


def _shade(
    scene: RayScene, cameras: Cameras, view: int, rays: np.ndarray, shading: str
) -> tuple[np.ndarray, np.ndarray]:
    """Cast rays (R, 3) of one view: the faces hit, (R,), and the values (hits[, 3]) in 0..255."""
    centre, axes = cameras.centres[view], cameras.extrinsics[view, :3, :3]
    face, distance = scene.first_hits(centre, rays)
    hit = face >= 0
    rays = rays[hit]
    if shading == "depth":
        nearest = np.linalg.norm(centre) - 1
        return face, 254 * ((distance[hit] * (rays @ axes[2]) - nearest) / 2).clip(0, 1)
    normals = scene.normals[face[hit]]
    facing = np.einsum("rd,rd->r", normals, rays)
    normals = np.where(facing[:, None] > 0, -normals, normals)  # turned to the viewer
    if shading == "normal":
        return face, 128 + 127 * normals @ axes.T
    sky = (normals @ SKY_DIRECTION + 1) / 2
    return face, 255 * (AMBIENT + HEADLIGHT * np.abs(facing) + SKY * sky)
