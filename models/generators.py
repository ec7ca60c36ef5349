"""Clouds made from a teacher's code of a shape: the cross-modal point generator of PointCMT.

Yan, Zhan, Zheng et al., "Let Images Give You More: Point Cloud Cross-Modal Training for Shape
Analysis", NeurIPS 2022. What a code says of a shape becomes a cloud, so that codes of two networks
can be compared by the distance between their clouds.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from models.losses import earth_movers_distance
from utils.checkpoint import fingerprint, read_model
from utils.errors import ConfigError, DataError
from utils.weights import load_matching

Scaling = Literal["published", "box"]
HIDDEN = 1024  # channels of the layers before the last
SHORTEST = 1e-4  # longest side of a box, for clouds that are a point


class Generator(nn.Module):
    """Codes (B, D) -> clouds (B, N, 3).

    paper: three layers. here: one, without bias and behind a dropout, as published; or three, with
    a ReLU behind the first two.

    Args:
        code_size: D. points: N. layers: 1 or 3. dropout: before the last layer.
    """

    task = "generation"
    fields = ("codes",)  # of a batch, its input
    extra_losses: tuple[str, ...] = ()

    def __init__(self, code_size: int, points: int = 1024, layers: int = 1, dropout: float = 0.5):
        super().__init__()
        self.code_size, self.points = code_size, points
        widths = [code_size, *[HIDDEN] * (layers - 1)]
        hidden = [part for step in pairwise(widths) for part in (nn.Linear(*step), nn.ReLU())]
        last = nn.Linear(widths[-1], 3 * points, bias=False)
        self.layers = nn.Sequential(*hidden, nn.Dropout(dropout), last)
        self.heads = nn.ModuleDict()  # as all networks of checkpoints have

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes).view(len(codes), self.points, 3)

    def forward_batch(self, batch: dict[str, Tensor]) -> Tensor:
        """The clouds for the fields of a batch."""
        return self(batch["codes"])

    def distance(self, clouds: Tensor, points: Tensor, scaling: Scaling = "box") -> Tensor:
        """(B,) from what it made to ``points`` (B, N, 3), see :func:`cloud_distance`.

        Raises:
            ConfigError: clouds of another number of points.
        """
        if points.shape[1] != self.points:
            raise ConfigError(
                f"found clouds of {points.shape[1]} points, and this generator makes "
                f"{self.points}: give data.points={self.points}, in test.py --points"
            )
        return cloud_distance(clouds, points, scaling)


def build_generator(task: str = "generation", **sizes: Any) -> Generator:
    """The generator of a checkpoint's ``build``; arguments as of :class:`Generator`."""
    return Generator(**sizes)


def open_generator(path: str | Path) -> tuple[Generator, str | None, str]:
    """The generator of a checkpoint, in evaluation mode; the identity of the teacher whose codes it
    was trained on (None: a published file, which does not say); the fingerprint of its weights.

    Raises:
        DataError: no such file, or one that does not fit. ConfigError: it makes no clouds.
    """
    content = read_model(path)
    build = content["build"]
    if build.get("task") != "generation":
        raise ConfigError(
            f"{path} is a {content['role']} for {build.get('task', 'classification')}, expected a "
            "generator: train one with scripts/configs/recipes/pointcmt_generator.yaml"
        )
    try:
        generator = build_generator(**build)
    except (TypeError, RuntimeError) as error:
        raise DataError(f"the description in {path} fits no generator here: {error}") from error
    load_matching(generator, content["model"], path, "its own description")
    return generator.eval(), content["training"].get("teacher"), fingerprint(content["model"])


def scale_cloud(points: Tensor, scaling: Scaling) -> Tensor:
    """Clouds (B, N, 3) with a box whose longest side is 1.

    paper: with s = 1 / longest side, s x - 1/2 - s (min - rest) / 2, rest being how much shorter
    than the longest the side of an axis is. Only half of the minimum is taken off, so that what is
    compared depends on where a cloud is: ``published``.
    here: that, or ``box``: s x - 1/2 - s (min - rest / 2), the centre of the box in the origin.
    """
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    side = high - low  # (B, 1, 3)
    longest = side.amax(dim=2, keepdim=True)
    rest = longest - side
    corner = (low - rest) / 2 if scaling == "published" else low - rest / 2
    return (points - corner) / longest.clamp(min=SHORTEST) - 0.5


def cloud_distance(clouds: Tensor, points: Tensor, scaling: Scaling) -> Tensor:
    """(B,): the earth mover's distance between clouds (B, N, 3) scaled by :func:`scale_cloud`, per
    point, in units of the longest side of a cloud's box."""
    scaled = scale_cloud(clouds.float(), scaling), scale_cloud(points.float(), scaling)
    return earth_movers_distance(*scaled)[0]
