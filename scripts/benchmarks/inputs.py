"""Clouds like those of training: surfaces of the embedded shapes, in farthest-point order."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from data.geometry.sampling import farthest_point_order, sample_surface
from data.synthetic.shapes import CLASSES, make_shape, shape_rng

DENSITY = 2  # surface points drawn for each that is kept


@cache
def _cloud(number: int, count: int, redrawn: bool) -> np.ndarray:
    name = CLASSES[number % len(CLASSES)]
    generator = shape_rng(0, name, number)
    shape = make_shape(name, generator)
    generator = np.random.default_rng(number) if redrawn else generator
    points, _ = sample_surface(shape.vertices, shape.faces, DENSITY * count, generator)
    return points[farthest_point_order(points, count)]


def clouds(batch: int, count: int, device: torch.device, redrawn: bool = False) -> Tensor:
    """(batch, count, 3) float32 in the unit sphere, class after class; ``redrawn``: other points of
    the same surfaces."""
    stack = np.stack([_cloud(number, count, redrawn) for number in range(batch)])
    return torch.from_numpy(stack).to(device)


def labels(batch: int, device: torch.device) -> Tensor:
    """(batch,) int64, the classes of :func:`clouds`."""
    return torch.arange(batch, device=device) % len(CLASSES)
