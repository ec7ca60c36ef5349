"""What becomes of one shape: a mesh by rays (``data.rendering.rays``), a cloud by its points."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.geometry.clouds import normalise_cloud
from data.geometry.meshes import into_unit_sphere, load_mesh, turn_up
from data.geometry.sampling import farthest_point_order, sample_surface
from data.parts import BACKGROUND
from data.prepare.writer import encode_png
from data.rendering.cameras import describe_recipe, find_rig, make_cameras, pack_visibility
from data.rendering.hidden_points import DEFAULT_VISIBILITY, HPR_RADIUS, see_from_views
from data.rendering.rays import RENDERER, RayScene, render_views, see_points
from data.rendering.splats import SPLATS, draw_splats, estimate_normals, make_splats
from data.sources.cloud_files import CloudFile, load_cloud
from data.sources.folders import ShapeFile
from utils.errors import ConfigError

Record = dict[str, np.ndarray]


@dataclass(frozen=True)
class ShapeSettings:
    """All that decides what a mesh becomes."""

    up: str = "z"
    recipe: str = "ring12"
    image_size: int = 224
    shading: str = "grey"
    points: int = 2048
    seed: int = 0

    @property
    def renderer(self) -> int | str:
        """Which program draws the views, and its version."""
        return RENDERER

    def views_recipe(self) -> dict[str, Any]:
        """All that decides what the views look like."""
        return describe_recipe(self.recipe, self.image_size, self.shading, self.renderer)


@dataclass(frozen=True)
class CloudSettings(ShapeSettings):
    """All that decides what a cloud becomes.

    Attributes:
        visibility: ``splat`` or ``hpr``. hpr_radius: of the latter, None for the former.
    """

    visibility: str = DEFAULT_VISIBILITY
    hpr_radius: float | None = None

    @classmethod
    def choose(
        cls, visibility: str | None, hpr_radius: float | None, **others: Any
    ) -> CloudSettings:
        """Fill in the defaults of visibility; ConfigError for a radius without use or meaning."""
        visibility = visibility or DEFAULT_VISIBILITY
        if visibility != "hpr" and hpr_radius is not None:
            raise ConfigError("--hpr-radius is of --visibility hpr, which was not chosen")
        if visibility == "hpr":
            hpr_radius = HPR_RADIUS if hpr_radius is None else hpr_radius
            if not 0 < hpr_radius < math.inf:
                raise ConfigError(f"--hpr-radius is {hpr_radius}, expected a positive number")
        return cls(**others, visibility=visibility, hpr_radius=hpr_radius)

    @property
    def renderer(self) -> int | str:
        return f"splats {SPLATS}"  # no view of a cloud is taken for the view of a mesh


def prepare_shape(shape: ShapeFile, settings: ShapeSettings) -> Record:
    """Points, normals, parts, visibility and views of one shape, all in one frame.

    Returns:
        points (P, 3) float32, normals (P, 3) float16, visibility (P, ceil(V/8)) uint8, images
        (bytes,) uint8 and sizes (V,) int64 of the PNG streams in it; with part labels also
        part_names, parts (P,) uint8, places in them, and likewise as streams the label images,
        part_images and part_sizes. Of a cloud with fewer than P points also ``repeated``,
        of one whose neighbours in the source must have as many points ``count``, their number.

    Raises:
        DataError: the shape cannot be used; the message is the reason.
    """
    if isinstance(shape, CloudFile):
        return _prepare_cloud(shape, settings)
    return _prepare_mesh(shape, settings)


def _prepare_mesh(mesh: ShapeFile, settings: ShapeSettings) -> Record:
    source = load_mesh(mesh.path)
    vertices = into_unit_sphere(turn_up(source.vertices, settings.up))
    key = int.from_bytes(hashlib.sha256(mesh.id.encode()).digest()[:8], "little")
    generator = np.random.default_rng([settings.seed, key])
    points, face = sample_surface(vertices, source.faces, settings.points, generator)
    order = farthest_point_order(points)
    points, face = points[order], face[order]
    scene = RayScene(vertices, source.faces)
    cameras = make_cameras(find_rig(settings.recipe), settings.image_size)
    visible = see_points(scene, points, cameras.centres)
    images, seen_faces = render_views(scene, cameras, settings.shading)
    record = {
        "points": points,
        "normals": scene.normals[face].astype(np.float16),
        "visibility": pack_visibility(visible),
        **_encode("images", "sizes", images),
    }
    if source.face_parts is not None:
        record["parts"] = source.face_parts[face]
        record["part_names"] = np.array(source.part_names)
        part_of_face = np.append(source.face_parts, np.uint8(BACKGROUND))  # found at -1
        record |= _encode("part_images", "part_sizes", part_of_face[seen_faces])
    return record


def _prepare_cloud(shape: CloudFile, settings: CloudSettings) -> Record:
    """Views and visibility come from all points of the cloud, of which ``settings.points`` are
    stored, repeated in their order where there are fewer."""
    cloud = load_cloud(shape)
    points = normalise_cloud(cloud.points, settings.up)
    normals = _find_normals(points, cloud.normals, settings.up)
    cameras = make_cameras(find_rig(settings.recipe), settings.image_size)
    splats = make_splats(points, normals, cameras)
    images, seen_points = draw_splats(points, normals, cameras, settings.shading, splats)
    radius = settings.hpr_radius or HPR_RADIUS
    visible = see_from_views(points, cameras, settings.visibility, radius, splats)
    # Repeated points are taken last by farthest-point sampling: the order stays what it says.
    order = np.resize(farthest_point_order(points, settings.points), settings.points)
    record = {
        "points": points[order],
        "normals": normals[order].astype(np.float16),
        "visibility": pack_visibility(visible[order]),
        **_encode("images", "sizes", images),
    }
    if shape.uniform:
        record["count"] = np.array(len(points))
    if len(points) < settings.points:
        record["repeated"] = np.array(settings.points - len(points))
    if cloud.parts is not None:
        record["parts"] = cloud.parts[order]
        record["part_names"] = np.array(cloud.part_names)
        part_of_point = np.append(cloud.parts, np.uint8(BACKGROUND))  # found at -1
        record |= _encode("part_images", "part_sizes", part_of_point[seen_points])
    return record


def _find_normals(points: np.ndarray, given: np.ndarray | None, up: str) -> np.ndarray:
    """Unit normals of points (N, 3): the file's (N, 3), turned like its points, or estimated ones
    where the file has none or one without a length."""
    if given is None:
        return estimate_normals(points)
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    if not lengths.all():
        return estimate_normals(points)
    return turn_up(given, up) / lengths


def _encode(streams_name: str, sizes_name: str, images: np.ndarray) -> Record:
    streams = [encode_png(image) for image in images]
    return {
        streams_name: np.frombuffer(b"".join(streams), np.uint8),
        sizes_name: np.array([len(stream) for stream in streams], np.int64),
    }
