"""The command line of ``data.prepare``, and what it says of a set."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.geometry.meshes import UP_AXES
from data.prepare.shape import CloudSettings, ShapeSettings
from data.prepare.shards import launched_shard, read_shard
from data.rendering.cameras import RIGS, find_rig
from data.rendering.hidden_points import DEFAULT_VISIBILITY, HPR_RADIUS, VISIBILITIES
from data.rendering.rays import SHADINGS
from data.sources.folders import Source
from data.sources.registry import LAYOUTS
from data.synthetic.shapes import MOST_PER_CLASS
from utils.errors import ConfigError
from utils.machine import local_cores

UP_HELP = (
    "the axis that is up in the files (default: z; y in the public ModelNet40 clouds, ScanObjectNN "
    "and ShapeNetPart)"
)


JOIN_HELP = (
    "make the set of what the shards prepared: in its folder, and in the FOLDERs of the set that "
    "come from machines with disks of their own"
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; ConfigError for what argparse cannot judge."""
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare", description="Turn meshes or clouds into a prepared set."
    )
    add, shape = parser.add_argument, ShapeSettings()
    add("source", nargs="?", type=Path, help="folder of meshes or clouds, see data/README.md")
    add("--shapes", action="store_true", help="the embedded parametric shapes, for SOURCE")
    add("--shapes-train", type=int, default=40, help="with --shapes: training shapes a class")
    add("--shapes-test", type=int, default=20, help="with --shapes: test shapes a class")
    add("--layout", choices=("auto", *LAYOUTS), default="auto", help="of SOURCE (default: look)")
    add("--variant", default="", help="of scanobjectnn or modelnet40-normal, see data/README.md")
    add("--name", help="of the set (default with --shapes: Shapes)")
    add("--root", type=Path, default=Path("data"), help="where the set's folder goes")
    add("--up", choices=UP_AXES, default=shape.up, help=UP_HELP)
    add("--recipe", default=shape.recipe, help=f"cameras: {', '.join(RIGS)}")
    add("--image-size", type=int, default=shape.image_size, help="pixels a side")
    add("--shading", choices=SHADINGS, default=shape.shading)
    add("--points", type=int, help="points a shape (default: 2,048, or all of packed clouds)")
    add("--visibility", choices=VISIBILITIES, help=f"clouds only (default: {DEFAULT_VISIBILITY})")
    add("--hpr-radius", type=float, help=f"of --visibility hpr (default: {HPR_RADIUS:g})")
    add("--seed", type=int, default=shape.seed)
    add("--test-fraction", type=float, default=0.2, help="of a source without train and test")
    add("--split-file", type=Path, help="JSON of the train and test ids of such a source instead")
    add("--workers", type=int, help="processes (default: the cores)")
    add("--overwrite", action="store_true", help="make a finished set anew")
    add("--shard", metavar="I/N", help="prepare part I of N, counted from 1, for --join")
    add("--join", nargs="*", type=Path, metavar="FOLDER", help=JOIN_HELP)
    options = parser.parse_args(arguments)
    options.shard = read_shard(options.shard) if options.shard is not None else None
    options.launched = launched_shard()
    if options.workers is None:
        options.workers = local_cores()
    _check_options(options)
    _check_shares(options)
    return options


def _check_options(options: argparse.Namespace) -> None:
    if options.shapes == (options.source is not None):
        raise ConfigError("give either SOURCE, a folder of meshes or clouds, or --shapes")
    if options.shapes:
        if options.layout != "auto" or options.variant:
            raise ConfigError("--layout and --variant are of a SOURCE, not of --shapes")
        if options.split_file:
            raise ConfigError("the embedded shapes are split: leave --split-file out with --shapes")
        options.name = options.name or "Shapes"
        if options.up != "z":
            raise ConfigError("the embedded shapes are z up: leave --up out with --shapes")
    if not options.name:
        raise ConfigError("give the set a --name: it becomes the folder data/NAME")
    if options.name.startswith(".") or Path(options.name).name != options.name:
        raise ConfigError(f"--name {options.name!r} is no plain folder name; --root says where")
    find_rig(options.recipe)
    least = {"image_size": 8, "points": 1, "seed": 0, "workers": 1}
    least |= {"shapes_train": 1, "shapes_test": 1}
    for name, low in least.items():
        if getattr(options, name) is not None and getattr(options, name) < low:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is {getattr(options, name)}, expected {low} or more")
    if max(options.shapes_train, options.shapes_test) > MOST_PER_CLASS:
        raise ConfigError(f"--shapes-train and --shapes-test go up to {MOST_PER_CLASS}")
    if not 0 < options.test_fraction < 1:
        raise ConfigError(f"--test-fraction is {options.test_fraction}, expected between 0 and 1")


def _check_shares(options: argparse.Namespace) -> None:
    ways = {
        "--shard": options.shard,
        "--join": options.join is not None,
        "torchrun": options.launched,
    }
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} do not go together: give one of them")
    if given and options.overwrite:
        raise ConfigError(
            f"--overwrite is not for {given[0]}, where one process would remove what another has "
            f"made: remove {options.root / options.name} beforehand, or give another --name"
        )


def choose_settings(
    options: argparse.Namespace, layout: str, source: Source | None
) -> ShapeSettings:
    """What the shapes become, with the defaults that depend on the source filled in.

    Raises:
        ConfigError: an option of clouds for meshes, or more points than packed clouds have.
    """
    values = {key: getattr(options, key) for key in asdict(ShapeSettings()) if key != "points"}
    most = source.num_points if source else None
    values["points"] = options.points or min(ShapeSettings.points, most or ShapeSettings.points)
    if most and values["points"] > most:
        raise ConfigError(f"--points is {options.points}, and the clouds have {most} points each")
    if layout != "meshes":
        return CloudSettings.choose(options.visibility, options.hpr_radius, **values)
    if options.visibility or options.hpr_radius is not None:
        raise ConfigError("meshes are seen by rays: --visibility and --hpr-radius are of clouds")
    return ShapeSettings(**values)


def describe_source(
    options: argparse.Namespace, layout: str, source: Source | None
) -> dict[str, Any]:
    """What the settings of a set say about where it comes from."""
    if source is None:
        counts = f"{options.shapes_train} train and {options.shapes_test} test a class"
        return {"source": "embedded shapes", "meshes": counts, "test_fraction": None}
    drawn = not source.is_split and options.split_file is None
    settings = {
        "source": options.source.resolve().name,
        "meshes" if layout == "meshes" else "clouds": source.fingerprint(),
        "test_fraction": options.test_fraction if drawn else None,
    }
    if options.split_file:
        content = options.split_file.read_bytes()
        settings["split_file"] = hashlib.sha256(content).hexdigest()[:12]
    if layout != "meshes":
        settings |= {"layout": layout, "variant": options.variant}
    return settings
