"""How far visibility from points alone agrees with casting rays at the mesh, as a table.

    python -m scripts.compare_visibility [--shapes 3] [--points 1024 2048] [--rig ring12]

Takes the first test shapes of every embedded class. Points are either spread evenly (the
farthest-point subset of four times as many samples) or plain random samples. Precision and recall
are those of "visible"; IoU counts the pairs of point and view that both call visible, over those
that either does. Milliseconds are of processor time, for all views. It takes about three minutes.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
from collections.abc import Callable
from time import process_time
from typing import NamedTuple

import numpy as np

from data.geometry.sampling import farthest_point_order, sample_surface
from data.rendering.cameras import RIGS, Cameras, find_rig, make_cameras
from data.rendering.hidden_points import hidden_point_removal
from data.rendering.rays import RayScene, see_points
from data.rendering.splats import estimate_normals, make_splats, see_splats
from data.synthetic.shapes import CLASSES, FIRST_NUMBER, make_shape, shape_rng
from utils.errors import ConfigError, run_main

RADII, TOLERANCES = (0.8, 1.0, 1.2), (0.4, 0.6)  # of discs, in spacings
FLIPS = (0.01, 0.02, 0.03, 0.05, 0.1)  # radii of hidden point removal


class Cloud(NamedTuple):
    """Points (P, 3) of a mesh and what rays see of them, (P, V) bool."""

    points: np.ndarray
    seen: np.ndarray


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", type=int, default=3, help="of each class")
    parser.add_argument("--points", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--rig", choices=RIGS, default="ring12")
    parser.add_argument("--image-size", type=int, default=224, help="of the splats, in pixels")
    parser.add_argument("--random", action="store_true", help="random points, not evenly spread")
    options = parser.parse_args(arguments)
    if min(options.shapes, options.image_size) < 1 or min(options.points) < 4:
        raise ConfigError("--shapes and --image-size take 1 or more, --points 4 or more")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    cameras = make_cameras(find_rig(options.rig), options.image_size)
    print("| points | method | accuracy | precision | recall | IoU | ms per shape |")
    print("|---|---|---|---|---|---|---|")
    for count in options.points:
        clouds = make_clouds(options.shapes, count, cameras, options.random)
        for name, see in methods(cameras).items():
            begin = process_time()
            found = [see(cloud.points) for cloud in clouds]
            milliseconds = 1000 * (process_time() - begin) / len(clouds)
            scores = agreement(np.stack(found), np.stack([cloud.seen for cloud in clouds]))
            figures = " | ".join(f"{100 * score:.1f}" for score in scores)
            print(f"| {count:,} | {name} | {figures} | {milliseconds:.0f} |", flush=True)


def make_clouds(shapes: int, count: int, cameras: Cameras, random: bool) -> list[Cloud]:
    """``shapes`` clouds of ``count`` points of every embedded class."""
    clouds = []
    for name in CLASSES:
        for number in range(FIRST_NUMBER["test"], FIRST_NUMBER["test"] + shapes):
            generator = shape_rng(0, name, number)
            vertices, faces, _ = make_shape(name, generator)
            samples = count if random else 4 * count
            points, _ = sample_surface(vertices, faces, samples, generator)
            points = points[farthest_point_order(points, count)]
            seen = see_points(RayScene(vertices, faces), points, cameras.centres)
            clouds.append(Cloud(points, seen))
    return clouds


def methods(cameras: Cameras) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Points (P, 3) -> visibility (P, V), by the name of method and parameters."""

    def splat(radius: float, tolerance: float) -> Callable[[np.ndarray], np.ndarray]:
        def see(points: np.ndarray) -> np.ndarray:
            splats = make_splats(points, estimate_normals(points), cameras, radius)
            return see_splats(points, cameras, tolerance=tolerance, splats=splats)

        return see

    def flip(radius: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda points: hidden_point_removal(points, cameras.centres, radius)

    names = {
        f"splat, radius {radius:g}, tolerance {tolerance:g}": splat(radius, tolerance)
        for radius in RADII
        for tolerance in TOLERANCES
    }
    return names | {f"hpr, radius {radius:g}": flip(radius) for radius in FLIPS}


def agreement(found: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float]:
    """Accuracy, precision, recall and intersection over union of two boolean arrays."""
    from sklearn.metrics import accuracy_score, jaccard_score, precision_score, recall_score

    found, truth = found.ravel(), truth.ravel()
    ratios = (precision_score, recall_score, jaccard_score)
    return accuracy_score(truth, found), *(r(truth, found, zero_division=0) for r in ratios)


if __name__ == "__main__":
    run_main(main)
