"""What several test files build or run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import trimesh
from conftest import ROOT
from scipy.optimize import linear_sum_assignment

from data.geometry.sampling import farthest_point_order, sample_surface
from data.synthetic.shapes import make_shape, shape_rng
from models.objective import Objective
from models.terms import active_terms, with_terms
from utils.fields import Field
from utils.settings import StudentConfig, TeacherConfig

FILES = ("train.h5", "test.h5", "report.json")


def make_meshes(folder, classes=("ball", "box"), per_split=3, plain=False):
    """A source of small meshes that differ from one another."""
    for place, name in enumerate(classes):
        for number in range(2 * per_split):
            split = "test" if number % 2 else "train"
            ball = trimesh.creation.icosphere(2 if place == 0 else 0)
            ball.vertices *= [1, 1 + 0.1 * number, 0.5 + 0.1 * place]
            path = folder / name / ("" if plain else split) / f"{name}_{number}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            ball.export(path)
    return folder


def contents(root):
    return {name: (root / "Set" / name).read_bytes() for name in FILES}


def ball(count=1024, radius=0.8):
    """Evenly spread points on a sphere: (count, 3) float32 (a golden spiral)."""
    z = 1 - (2 * np.arange(count) + 1) / count
    turn = np.arange(count) * np.pi * (3 - 5**0.5)
    ring = np.sqrt(1 - z**2)
    return np.float32(radius * np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1))


def grid(z, half=0.5, count=20):
    """A square of count x count points at height z."""
    x, y = np.meshgrid(*[np.linspace(-half, half, count)] * 2)
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], axis=1)


def cloud_of(name, count=1024):
    """Points of an embedded shape, its mesh."""
    generator = shape_rng(0, name, 5001)
    shape = make_shape(name, generator)
    points, _ = sample_surface(shape.vertices, shape.faces, 4 * count, generator)
    return points[farthest_point_order(points, count)], shape


def points(kind: str, count: int, batch: int = 2, axes: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "equal":
        return torch.full((batch, count, axes), 0.3)
    if kind == "lattice":  # equal points and equal distances
        return torch.randint(-2, 3, (batch, count, axes), generator=generator).float()
    return torch.randn(batch, count, axes, generator=generator)


def check_matching(a: torch.Tensor, b: torch.Tensor, assignment: torch.Tensor) -> None:
    """One-to-one, and no farther from the best matching, which SciPy finds, than is promised: 1 %,
    or 1e-4 of the smaller diagonal."""
    a, b, assignment = a.cpu().double().numpy(), b.cpu().double().numpy(), assignment.cpu()
    assert assignment.shape == a.shape[:2] and assignment.dtype == torch.int64
    assert (assignment.sort(dim=1).values == torch.arange(a.shape[1])).all()
    for of_a, of_b, mine in zip(a, b, assignment.numpy(), strict=True):
        apart = np.linalg.norm(of_a[:, None] - of_b, axis=2)
        best = apart[linear_sum_assignment(apart)].mean()
        diagonal = min(np.linalg.norm(np.ptp(cloud, axis=0)) for cloud in (of_a, of_b))
        assert apart[np.arange(len(mine)), mine].mean() <= best + max(0.01 * best, 1e-4 * diagonal)


def seen_by(batch: int, count: int, views: int) -> torch.Tensor:
    seen = torch.rand(batch, count, views, generator=torch.Generator().manual_seed(views)) < 0.4
    seen[0, :, views // 2] = False  # a view that sees nothing
    return seen


def parse_script(script: str, tmp_path: Path, *words: str, **environment: str):
    """Run a shell script with every python line going to its parser only."""
    return subprocess.run(
        ["bash", f"scripts/{script}", *words],
        cwd=ROOT,
        env=os.environ
        | {"PYTHON": f"{sys.executable} {ROOT / 'tests' / 'parse_line.py'}"}
        | {"RESULTS": str(tmp_path / "results.csv"), "LOGS": str(tmp_path / "logs")}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def settle(role: str, weights: dict, **options):
    """The terms in force of a student or a teacher, as a recipe would give them: their weights, and
    ``options`` by their names."""
    schema = with_terms(StudentConfig if role == "student" else TeacherConfig)
    given = {name: {"weight": weight, **options.get(name, {})} for name, weight in weights.items()}
    return active_terms(schema.model_fields["terms"].annotation.model_validate(given))


def make_objective(network, weights: dict, fields=None, **options) -> Objective:
    """Terms around a network; ``fields`` that are not given are as PointMCD's teacher makes them,
    for 4 views."""
    codes = {"view_codes": Field((4, 512), False), "codes": Field((512,), False)}
    known = {"visibility": Field((64, 4)), "label": Field(()), "parts": Field((64,))}
    known |= {"part_images": Field((4, 32, 32)), **codes, **(fields or {})}
    role = "student" if "points" in network.fields else "teacher"
    return Objective(network, settle(role, weights, **options), known)
