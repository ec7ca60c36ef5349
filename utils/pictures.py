"""Pictures for TensorBoard and for results: view grid, visibility, confusion matrix, embedding,
parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRID_SHAPES = 4
_EMBEDDING_SHAPES = 2000
_UNLABELLED_GREY = 0.82


def _new_figure(**options) -> Figure:
    """Matplotlib is imported for the first figure: that takes half a second."""
    from matplotlib.figure import Figure

    return Figure(**options)


@cache
def _part_colours() -> np.ndarray:
    """(20, 3) in 0..1, the strong ones first."""
    from matplotlib import colormaps

    return np.array(colormaps["tab20"].colors)[[*range(0, 20, 2), *range(1, 20, 2)]]


def view_grid(writer, epoch: int, views: Tensor) -> None:
    """The views of the first shapes of a batch (B, V, C, H, W), one row per shape."""
    shown = views[:_GRID_SHAPES]
    if shown.dtype == torch.uint8:
        shown = shown.float() / 255
    rows = [torch.cat(list(shape), dim=2) for shape in shown]  # (C, H, V * W) each
    writer.add_image("views", torch.cat(rows, dim=1), epoch)


def cloud(writer, epoch: int, points: Tensor, visibility: Tensor | None) -> None:
    """One cloud (N, 3) as the network sees it, coloured by what the first view sees of it.

    ``visibility``: (B, N, V) of the batch that the cloud leads, or None.
    """
    figure = _new_figure(figsize=(5, 5))
    axes = figure.add_subplot(projection="3d")
    seen = None if visibility is None else visibility[0, :, 0].cpu().numpy()
    scatter_cloud(axes, points.cpu().numpy(), seen)
    writer.add_figure("cloud", figure, epoch)


def scatter_cloud(axes, points: np.ndarray, seen: np.ndarray | None) -> None:
    """Draw (N, 3) points on 3D axes: seen points in colour, hidden ones grey."""
    colours = "tab:blue" if seen is None else np.where(seen, "tab:orange", "lightgrey")
    _scatter(axes, points, colours)


def _scatter(axes, points: np.ndarray, colours) -> None:
    axes.scatter(*points.T, c=colours, s=3)
    axes.set_box_aspect((1, 1, 1), zoom=1.3)
    limit = float(np.abs(points).max())
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), zlim=(-limit, limit))
    axes.set_axis_off()


def confusion_figure(confusion: np.ndarray, classes: list[str]) -> Figure:
    """A confusion matrix (K, K), rows normalised to shares of the true class."""
    size = 3 + 0.28 * len(classes)
    figure = _new_figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=90, fontsize=8)
    axes.set_yticks(places, classes, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= 40:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            shade = "white" if share[row, column] > 0.5 else "black"
            axes.text(
                column,
                row,
                confusion[row, column],
                ha="center",
                va="center",
                fontsize=6,
                color=shade,
            )
    return figure


def embedding(
    writer, epoch: int, codes: np.ndarray, labels: np.ndarray, classes: list[str]
) -> None:
    """Codes (S, D) for TensorBoard's projector, labelled by class; the first 2,000 shapes."""
    names = [classes[label] for label in labels[:_EMBEDDING_SHAPES]]
    writer.add_embedding(codes[:_EMBEDDING_SHAPES], metadata=names, global_step=epoch, tag="codes")


def colour_parts(parts: np.ndarray) -> np.ndarray:
    """Colours (..., 3) in 0..1 of part numbers (...) counted within a category.

    -1 (no label) is grey, -2 (background of a label image) white; colours repeat after 20 parts.
    """
    known = _part_colours()
    colours = known[np.maximum(parts, 0) % len(known)]
    colours = np.where((parts == -1)[..., None], _UNLABELLED_GREY, colours)
    return np.where((parts == -2)[..., None], 1.0, colours)


def parts_figure(
    points: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    ranges: Sequence[tuple[int, int]],
) -> Figure:
    """Some clouds (S, N, 3) coloured by their true parts, above the same by the predicted ones.

    Args:
        true, predicted: (S, N) global part numbers, below 0 without a label.
        labels: (S,) categories; ranges: (begin, end) of the parts of each.
    """
    figure = _new_figure(figsize=(2.4 * len(points), 5), layout="constrained")
    for shape, label in enumerate(labels):
        begin = ranges[label][0]
        right = (true[shape] == predicted[shape])[true[shape] >= 0]
        share = f"{100 * right.mean():.0f} %" if len(right) else "no labels"
        rows = ((true, classes[label]), (predicted, f"predicted, {share}"))
        for row, (parts, title) in enumerate(rows):
            place = row * len(points) + shape + 1
            axes = figure.add_subplot(2, len(points), place, projection="3d")
            local = np.where(parts[shape] < 0, -1, parts[shape] - begin)
            _scatter(axes, points[shape], colour_parts(local))
            axes.set_title(title, fontsize=9)
    return figure


def cloud_figure(rows: Sequence[np.ndarray], kinds: Sequence[str], names: list[str]) -> Figure:
    """Clouds in a grid: each of ``rows`` holds one kind for all shapes, (S, N, 3)."""
    count = len(names)
    figure = _new_figure(figsize=(2.4 * count, 2.5 * len(rows)), layout="constrained")
    for row, (clouds, kind) in enumerate(zip(rows, kinds, strict=True)):
        for column, (points, name) in enumerate(zip(clouds, names, strict=True)):
            axes = figure.add_subplot(len(rows), count, row * count + column + 1, projection="3d")
            centre = (points.max(axis=0) + points.min(axis=0)) / 2
            _scatter(axes, points - centre, "tab:blue")
            axes.set_title(name if row == 0 else kind, fontsize=9)
    return figure


def cloud_parts_figure(points: np.ndarray, parts: np.ndarray, names: list[str]) -> Figure:
    """One cloud (N, 3) coloured by ``parts`` (N,), places in ``names``, which become the legend."""
    figure = _new_figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot(projection="3d")
    _scatter(axes, points, colour_parts(parts))
    for place, name in enumerate(names):
        axes.scatter([], [], [], color=colour_parts(np.array(place)), label=name)
    axes.legend(loc="upper left", fontsize=8)
    return figure


def image_figure(rows: Sequence[np.ndarray], kinds: Sequence[str], names: list[str]) -> Figure:
    """Images in a grid: each of ``rows`` holds one kind for all shapes, (S, H, W, 3) in 0..1."""
    count = len(names)
    figure = _new_figure(figsize=(1.9 * count, 2.1 * len(rows)), layout="constrained")
    for row, (images, kind) in enumerate(zip(rows, kinds, strict=True)):
        for column, (image, name) in enumerate(zip(images, names, strict=True)):
            axes = figure.add_subplot(len(rows), count, row * count + column + 1)
            axes.imshow(image)
            axes.set_axis_off()
            axes.set_title(name if row == 0 else kind, fontsize=8)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
