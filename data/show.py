"""Draw a shape of a prepared set: all views, and the cloud coloured by what one view sees.

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
from matplotlib.figure import Figure

from data.cameras import project
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
    columns = -(-split.num_views // 3)  # three rows of views, then the clouds beside them
    figure = Figure(figsize=(1.6 * columns + 6.4, 5.4), layout="constrained")
    figure.suptitle(_title(split, index))
    left, right = figure.subfigures(1, 2, width_ratios=(1.6 * columns, 6.4))
    for number, (axes, image) in enumerate(
        zip(left.subplots(3, columns).flat, split.views(index), strict=False)
    ):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"view {number}", fontsize=8, color=SEEN if number == view else "black")
    for axes in left.axes:
        axes.axis("off")
    points = split.points()[index]
    seen = unpack_visibility(split.visibility()[index], split.num_views)[:, view]
    here, side = right.subplots(1, 2)
    _draw_cloud(here, split, points, seen, split.extrinsics[view])
    here.set_title(f"from view {view}: {seen.mean():.0%} of {len(seen):,} points seen", fontsize=9)
    _draw_cloud(side, split, points, seen, split.extrinsics[view] @ _quarter_turn())
    side.set_title("the same colours from the side", fontsize=9)
    return figure


def _title(split: PreparedSplit, index: int) -> str:
    label = split.class_names[split.labels[index]]
    return f"{label}   |   {split.ids[index]}   |   {split.name}, {split.split}"


def _quarter_turn() -> np.ndarray:
    """(4, 4) rotation of the world by 90 degrees about z."""
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    return turn


def _draw_cloud(
    axes: Axes, split: PreparedSplit, points: np.ndarray, seen: np.ndarray, extrinsics: np.ndarray
) -> None:
    pixels, depth = project(points, split.intrinsics[:1], extrinsics[None])
    order = np.argsort(-depth[0])  # the nearest last, on top
    colours = np.where(seen, SEEN, UNSEEN)[order]
    axes.scatter(*pixels[0][order].T, c=colours, s=6, linewidths=0)
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
