"""One shape from mesh to record, and many of them by many processes.

The records of a set lie in its work folder until they are assembled, each in a file of its own that
is written atomically. An interrupted preparation therefore loses the shapes in flight and no more,
and since a record depends on its mesh and the settings alone, neither interruptions nor the number
of processes change a byte of the result.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cameras import find_rig, make_cameras
from data.meshes import into_unit_sphere, load_mesh, turn_up
from data.render import RENDERER, RayScene, render_views, see_points
from data.sampling import farthest_point_order, sample_surface
from data.sources import MeshFile, mesh_fingerprint
from data.split_writer import encode_png
from data.storage import VERSION, pack_visibility
from utils.errors import DataError, RunError
from utils.files import atomic_path


@dataclass(frozen=True)
class ShapeSettings:
    """All that decides what a mesh becomes."""

    up: str = "z"
    recipe: str = "ring12"
    image_size: int = 224
    shading: str = "grey"
    points: int = 2048
    seed: int = 0


def prepare_shape(mesh: MeshFile, settings: ShapeSettings) -> dict[str, np.ndarray]:
    """Points, normals, parts, visibility and views of one mesh, all in one frame.

    Returns:
        points (P, 3) float32, normals (P, 3) float16, visibility (P, ceil(V/8)) uint8, images
        (bytes,) uint8 and sizes (V,) int64 of the PNG streams in it; with part labels also
        parts (P,) uint8 and part_names.

    Raises:
        DataError: the mesh cannot be used; the message is the reason.
    """
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
    streams = [encode_png(view) for view in render_views(scene, cameras, settings.shading)]
    record = {
        "points": points,
        "normals": scene.normals[face].astype(np.float16),
        "visibility": pack_visibility(visible),
        "images": np.frombuffer(b"".join(streams), np.uint8),
        "sizes": np.array([len(stream) for stream in streams], np.int64),
    }
    if source.face_parts is not None:
        record["parts"] = source.face_parts[face]
        record["part_names"] = np.array(source.part_names)
    return record


def record_path(folder: Path, mesh: MeshFile, settings: ShapeSettings) -> Path:
    """Where the record of a mesh lies: another file when the mesh or any setting is another."""
    identity = [VERSION, RENDERER, mesh_fingerprint(mesh), asdict(settings)]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:32]}.npz"


def work_on(mesh: MeshFile, settings: ShapeSettings, folder: Path) -> None:
    """Write the record of one mesh; an unusable mesh gets a record with the reason alone."""
    try:
        record = prepare_shape(mesh, settings)
    except DataError as error:
        record = {"reason": np.array(" ".join(str(error).split()))}
    with atomic_path(record_path(folder, mesh, settings)) as temporary:
        np.savez(temporary, **record)


def run_work(meshes: list[MeshFile], settings: ShapeSettings, folder: Path, workers: int) -> None:
    """Write the records that are not there yet, by ``workers`` processes (1 works in this one).

    Raises:
        RunError: a worker process died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = [mesh for mesh in meshes if not record_path(folder, mesh, settings).is_file()]
    bar = tqdm(total=len(meshes), initial=len(meshes) - len(left), desc="meshes", unit="mesh")
    with bar:
        if workers == 1:
            for mesh in left:
                work_on(mesh, settings, folder)
                bar.update()
        elif left:
            _run_pool(left, settings, folder, min(workers, len(left)), bar)


def _run_pool(
    meshes: list[MeshFile], settings: ShapeSettings, folder: Path, workers: int, bar: tqdm
) -> None:
    # One process a core is enough: keep the numeric libraries of the workers from starting more.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _follow_parent)
    try:
        for future in as_completed([pool.submit(work_on, m, settings, folder) for m in meshes]):
            future.result()
            bar.update()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died, perhaps for want of memory; the same command goes on from "
            "here, --workers with a smaller number needs less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Make a worker end with its parent even when that is killed, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
