"""Draw a shape of a prepared set: its views, and its points coloured by what one view sees; with
part labels also the label images, and the points coloured by parts.

    python -m data.show NAME ID [--view 0] [--output FILE.png]

The points are drawn twice: by the camera whose visibility colours them, where all that is seen
should lie in front, and from a quarter turn to the side, where the unseen back shows.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from data.parts import BACKGROUND
from data.rendering.cameras import project, unpack_visibility
from data.storage import SPLITS, PreparedSplit, open_split
from utils.errors import ConfigError, DataError, run_main
from utils.files import atomic_path

TITLE = {"loc": "left", "fontsize": 9}
SEEN, UNSEEN, FRAME = "#d95f02", "#8fa3bd", "#d5dae1"
ROWS = 2  # of views; a cloud is as high as all of them
CELL, HEAD, MARGIN = 1.2, 0.4, 0.1  # inches: side of a view, what is written above, the edge
BORDER = 0.06  # around the shape, in parts of its size
FADE = 0.5  # how far the farthest points go towards white
# of parts, told apart by most people who see fewer colours (after Paul Tol)
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
QUARTER_TURN = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # about z


def find_shape(name: str, shape_id: str, root: str | Path = "data") -> tuple[PreparedSplit, int]:
    """The split that holds a shape, and its place there.

    Raises:
        DataError: no such set, or no such shape; the message names the nearest ids.
    """
    splits = [open_split(name, split, root) for split in SPLITS]
    for split in splits:
        if shape_id in split.ids:
            return split, split.ids.index(shape_id)
    ids = [known for split in splits for known in split.ids]
    near = [known for known in ids if shape_id in known][:3]
    near = near or difflib.get_close_matches(shape_id, ids, n=3, cutoff=0.4) or ids[:3]
    raise DataError(f"no shape {shape_id!r} in {name}; did you mean {', '.join(near)}?")


def draw_shape(split: PreparedSplit, index: int, view: int) -> Figure:
    """The sheet of one shape: a band of views, and one of label images where there are any.

    Raises:
        ConfigError: the set has no such view.
    """
    if not 0 <= view < split.num_views:
        raise ConfigError(f"--view is {view}, expected 0 to {split.num_views - 1}")
    points = split.points()[index]
    seen = unpack_visibility(split.visibility()[index], split.num_views)[:, view]
    size = f"{split.image_size} x {split.image_size}"
    bands = _make_bands(split, 2 if split.has_part_images else 1)
    colours = np.where(seen[:, None], to_rgb(SEEN), to_rgb(UNSEEN))  # (P, 3)
    axes = _draw_band(bands[0], split, view, split.views(index), points, colours)
    axes[0].set_title(f"{split.ids[index]}: {split.num_views} views of {size} pixels", **TITLE)
    axes[-2].set_title(
        f"view {view} sees {100 * seen.mean():.0f} % of {len(seen):,} points", **TITLE
    )
    axes[-1].set_title("the same points from the side", **TITLE)
    if split.has_part_images:
        names = split.part_names.get(split.class_names[split.labels[index]], [])
        palette = part_colours(len(names))
        images, colours = palette[split.part_images(index)], palette[split.parts()[index]] / 255
        axes = _draw_band(bands[1], split, view, images, points, colours)
        axes[0].set_title("the part that each pixel shows", **TITLE)
        _name_parts(axes[-2], names, palette)
    return bands[0].figure


def part_colours(count: int) -> np.ndarray:
    """(256, 3) uint8, a colour for every stored part number of a class of ``count`` parts."""
    colours = np.zeros((256, 3), np.uint8)  # black for UNLABELLED
    hues = np.array([to_rgb(colour) for colour in PALETTE])
    if count > len(hues):
        hues = matplotlib.colormaps["turbo"](np.linspace(0.08, 0.92, count))[:, :3]
    colours[:count] = (255 * hues[:count]).round()
    colours[BACKGROUND] = 255
    return colours


def _make_bands(split: PreparedSplit, count: int) -> Sequence[SubFigure]:
    """Subfigures below one another, in which every view is a square of ``CELL`` inches."""
    width = CELL * (-(-split.num_views // ROWS) + 2 * ROWS) + 2 * MARGIN
    height = HEAD + ROWS * CELL + MARGIN
    left, bottom, top = MARGIN / width, MARGIN / height, 1 - HEAD / height
    bands = Figure(figsize=(width, count * height)).subfigures(count, 1, squeeze=False)[:, 0]
    for band in bands:
        band.subplots_adjust(left, bottom, 1 - left, top, wspace=0.06, hspace=0.06)
    return bands


def _draw_band(
    band: SubFigure,
    split: PreparedSplit,
    view: int,
    images: np.ndarray,
    points: np.ndarray,
    colours: np.ndarray,
) -> list[Axes]:
    """Rows of images, then the points from a view and from its side, all on one scale."""
    columns = -(-len(images) // ROWS)
    grid = band.add_gridspec(ROWS, columns + 2 * ROWS)
    cameras = np.stack([split.extrinsics[view], split.extrinsics[view] @ QUARTER_TURN])
    pixels, depths = project(points, split.intrinsics[:1], cameras)
    for number, image in enumerate(images):
        axes = band.add_subplot(grid[number // columns, number % columns])
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.text(0.04, 0.96, number, va="top", fontsize=7, transform=axes.transAxes)
    for place, (pixel, depth) in enumerate(zip(pixels, depths, strict=True)):
        left = columns + place * ROWS
        axes = band.add_subplot(grid[:, left : left + ROWS])
        _draw_points(axes, pixel, depth, colours)
    corners = _window(points, split)
    for number, axes in enumerate(band.axes):
        axes.set(xlim=corners[0], ylim=corners[1][::-1], xticks=[], yticks=[], aspect="equal")
        linked = number in (view, len(images))  # the view, and the points as it has them
        axes.spines[:].set(color=SEEN if linked else FRAME, linewidth=1.8 if linked else 0.6)
    return band.axes


def _window(points: np.ndarray, split: PreparedSplit) -> np.ndarray:
    """(2, 2) smallest and largest u, then v, of a square that holds the shape in every view."""
    pixels, _ = project(points, split.intrinsics, split.extrinsics)
    low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    half = (0.5 + BORDER) * (high - low).max()
    return (low + high)[:, None] / 2 + [-half, half]


def _draw_points(axes: Axes, pixels: np.ndarray, depth: np.ndarray, colours: np.ndarray) -> None:
    """Points (P, 2) of one camera, the nearest last, on top, and the farthest palest."""
    far = FADE * (depth - depth.min()) / max(np.ptp(depth), 1e-9)
    order = np.argsort(-depth)
    pale = colours + far[:, None] * (1 - colours)
    axes.scatter(*pixels[order].T, c=pale[order], s=7, linewidths=0)


def _name_parts(axes: Axes, names: list[str], palette: np.ndarray) -> None:
    handles = [Patch(color=palette[n] / 255, label=name) for n, name in enumerate(names)]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.3, "borderpad": 0.1}
    square = {"handlelength": 0.8, "handleheight": 0.8, "columnspacing": 1.2}
    axes.legend(handles=handles, ncols=6, fontsize=9, frameon=False, **place, **square)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data.show", description="Draw a shape of a prepared set."
    )
    parser.add_argument("name", help="of the set")
    parser.add_argument("id", help="of the shape, such as chair/train/chair_0001")
    parser.add_argument("--root", default="data", help="where the sets are")
    parser.add_argument("--view", type=int, default=0, help="the view whose points are coloured")
    parser.add_argument("--output", type=Path, help="default: expt/pictures/NAME_ID.png")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    matplotlib.use("Agg")
    split, index = find_shape(options.name, options.id, options.root)
    name = f"{split.name}_{options.id.replace('/', '_')}.png"
    output = options.output or Path("expt/pictures") / name
    figure = draw_shape(split, index, options.view)
    kinds = figure.canvas.get_supported_filetypes()
    if output.suffix[1:].lower() not in kinds:
        raise ConfigError(f"--output {output} is no picture: end it with one of {', '.join(kinds)}")
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=110)
    print(output)


if __name__ == "__main__":
    run_main(main)
