"""Draw a shape of a prepared set: all views, and the cloud coloured by what one view sees; with
part labels also the label images, and the cloud coloured by parts.

    python -m data.show NAME ID [--view 0] [--output FILE.png]

The cloud is drawn twice: from the camera whose visibility colours it, where all that is seen
should lie in front, and from a quarter turn to the side, where the unseen back shows.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from data.parts import BACKGROUND
from data.rendering.cameras import project
from data.storage import SPLITS, PreparedSplit, open_split, unpack_visibility
from utils.errors import ConfigError, DataError, run_main
from utils.files import atomic_path

SEEN, UNSEEN = "#d95f02", "#b3bcc9"


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
    """The sheet of one shape.

    Raises:
        ConfigError: the set has no such view.
    """
    if not 0 <= view < split.num_views:
        raise ConfigError(f"--view is {view}, expected 0 to {split.num_views - 1}")
    parts = split.parts()[index] if split.part_names else None
    colours = part_colours(len(split.part_names.get(split.class_names[split.labels[index]], [])))
    columns = -(-split.num_views // 3)  # three rows of views, then the clouds beside them
    rows = 2 if split.has_part_images else 1
    figure = Figure(figsize=(1.6 * columns + 6.4, 5.4 * rows), layout="constrained")
    figure.suptitle(_title(split, index))
    grid = figure.subfigures(rows, 2, width_ratios=(1.6 * columns, 6.4), squeeze=False)
    _draw_images(grid[0, 0], split.views(index), view)
    if split.has_part_images:
        _draw_images(grid[1, 0], colours[split.part_images(index)], view)
    points = split.points()[index]
    seen = unpack_visibility(split.visibility()[index], split.num_views)[:, view]
    here, side = _draw_clouds(grid[0, 1], split, points, np.where(seen, SEEN, UNSEEN), view)
    here.set_title(f"from view {view}: {seen.mean():.0%} of {len(seen):,} points seen", fontsize=9)
    side.set_title("the same colours from the side", fontsize=9)
    if parts is not None and split.has_part_images:
        here, _ = _draw_clouds(grid[1, 1], split, points, colours[parts] / 255, view)
        _name_parts(here, split, index, colours)
    return figure


def part_colours(count: int) -> np.ndarray:
    """(256, 3) uint8, a colour for every stored part number of a class of ``count`` parts."""
    colours = np.zeros((256, 3), np.uint8)  # black for UNLABELLED
    hues = matplotlib.colormaps["turbo"](np.linspace(0.08, 0.92, max(count, 1)))[:count, :3]
    colours[:count] = (255 * hues).round()
    colours[BACKGROUND] = 255
    return colours


def _draw_images(area: SubFigure, images: np.ndarray, view: int) -> None:
    axes = area.subplots(3, -(-len(images) // 3)).flat
    for number, (place, image) in enumerate(zip(axes, images, strict=False)):
        place.imshow(image, cmap="gray", vmin=0, vmax=255)
        place.set_title(f"view {number}", fontsize=8, color=SEEN if number == view else "black")
    for place in area.axes:
        place.axis("off")


def _draw_clouds(
    area: SubFigure, split: PreparedSplit, points: np.ndarray, colours: np.ndarray, view: int
) -> tuple[Axes, Axes]:
    """The cloud from a view and from a quarter turn to its side."""
    here, side = area.subplots(1, 2)
    _draw_cloud(here, split, points, colours, split.extrinsics[view])
    _draw_cloud(side, split, points, colours, split.extrinsics[view] @ _quarter_turn())
    return here, side


def _name_parts(axes: Axes, split: PreparedSplit, index: int, colours: np.ndarray) -> None:
    names = split.part_names.get(split.class_names[split.labels[index]], [])
    handles = [Patch(color=colours[n] / 255, label=name) for n, name in enumerate(names)]
    axes.legend(handles=handles, fontsize=7, loc="upper left", frameon=False)


def _title(split: PreparedSplit, index: int) -> str:
    label = split.class_names[split.labels[index]]
    return f"{label}   |   {split.ids[index]}   |   {split.name}, {split.split}"


def _quarter_turn() -> np.ndarray:
    """(4, 4) rotation of the world by 90 degrees about z."""
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    return turn


def _draw_cloud(
    axes: Axes,
    split: PreparedSplit,
    points: np.ndarray,
    colours: np.ndarray,
    extrinsics: np.ndarray,
) -> None:
    pixels, depth = project(points, split.intrinsics[:1], extrinsics[None])
    order = np.argsort(-depth[0])  # the nearest last, on top
    axes.scatter(*pixels[0][order].T, c=colours[order], s=6, linewidths=0)
    axes.set(xlim=(0, split.image_size), ylim=(split.image_size, 0), aspect="equal")
    axes.set(xticks=[], yticks=[])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data.show", description="Draw a shape of a prepared set."
    )
    parser.add_argument("name", help="of the set")
    parser.add_argument("id", help="of the shape, such as chair/train/chair_0001")
    parser.add_argument("--root", default="data", help="where the sets are")
    parser.add_argument("--view", type=int, default=0, help="the view that colours the cloud")
    parser.add_argument("--output", type=Path, help="default: expt/pictures/NAME_ID.png")
    options = parser.parse_args(arguments)
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
