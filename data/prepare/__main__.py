"""Turn meshes, clouds or the embedded shapes into a prepared set ``data/NAME/``.

    python -m data.prepare SOURCE --name NAME [--up y] [--recipe ring12] ...
    python -m data.prepare --shapes

Interrupted, the same command goes on and ends with the same bytes. ``--workers`` processes of this
machine share the work, or with ``--cluster`` those of many. data/README.md describes the layouts
that are read and the files that are written.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import hashlib
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from data.geometry.meshes import UP_AXES
from data.prepare.cluster import run_cluster
from data.prepare.pack import clear_up, describe, find_finished, open_work, pack
from data.prepare.shape import CloudSettings, ShapeSettings
from data.prepare.workers import Records, make_records, run_here
from data.rendering.cameras import RIGS, find_rig
from data.rendering.hidden_points import DEFAULT_VISIBILITY, HPR_RADIUS, VISIBILITIES
from data.rendering.rays import SHADINGS
from data.sources.folders import Source, find_files
from data.sources.registry import LAYOUTS, find_source
from data.storage import VERSION
from data.synthetic.shapes import MOST_PER_CLASS, generate
from utils.errors import ConfigError, RunError, run_main
from utils.machine import local_cores, local_processes

# Folders of code in data/, which no set may take; some disks do not tell Shapes from shapes.
CODE = {path.parent.name for path in Path(__file__).parents[1].glob("*/__init__.py")}
CODE |= {"__pycache__"}

UP_HELP = (
    "the axis that is up in the files (default: z; y in the public ModelNet40 clouds, ScanObjectNN "
    "and ShapeNetPart)"
)
CLUSTER_HELP = (
    "address of a Dask scheduler whose workers do the work, such as tcp://HOST:8786; they and this "
    "machine share a disk"
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; ConfigError for what argparse cannot judge."""
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare", description="Turn meshes or clouds into a prepared set."
    )
    add, shape = parser.add_argument, ShapeSettings()
    add("source", nargs="?", type=Path, help="folder of meshes or clouds, see data/README.md")
    add("--shapes", action="store_true", help="the embedded parametric shapes, for SOURCE")
    add("--shapes-train", type=int, default=40, help="with --shapes: training shapes per class")
    add("--shapes-test", type=int, default=20, help="with --shapes: test shapes per class")
    add("--layout", choices=("auto", *LAYOUTS), default="auto", help="of SOURCE (default: look)")
    add("--variant", default="", help="of scanobjectnn or modelnet40-normal, see data/README.md")
    add("--name", help="of the set (default with --shapes: Shapes)")
    add("--root", type=Path, default=Path("data"), help="where the set's folder goes")
    add("--up", choices=UP_AXES, default=shape.up, help=UP_HELP)
    add("--recipe", default=shape.recipe, help=f"cameras: {', '.join(RIGS)}")
    add("--image-size", type=int, default=shape.image_size, help="pixels per side")
    add("--shading", choices=SHADINGS, default=shape.shading)
    add("--points", type=int, help="points per shape (default: 2,048, or all of packed clouds)")
    add("--visibility", choices=VISIBILITIES, help=f"clouds only (default: {DEFAULT_VISIBILITY})")
    add("--hpr-radius", type=float, help=f"of --visibility hpr (default: {HPR_RADIUS:g})")
    add("--seed", type=int, default=shape.seed)
    add("--test-fraction", type=float, default=0.2, help="of a source without train and test")
    add("--split-file", type=Path, help="JSON of the train and test ids of such a source instead")
    add("--workers", type=int, help="processes (default: the cores)")
    add("--overwrite", action="store_true", help="make a finished set anew")
    add("--cluster", metavar="ADDRESS", help=CLUSTER_HELP)
    options = parser.parse_args(arguments)
    if options.workers is None:
        options.workers = local_cores()
    _check_options(options)
    return options


def _check_options(options: argparse.Namespace) -> None:
    if local_processes() > 1:
        raise ConfigError(
            "torchrun is for training: --workers says how many processes prepare, --cluster which "
            "machines"
        )
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
    plain = Path(options.name).name == options.name and options.name.isprintable()
    if not plain or options.name.startswith("."):
        raise ConfigError(f"--name {options.name!r} is no plain folder name; --root says where")
    if options.name.casefold() in CODE:
        raise ConfigError(
            f"--name {options.name!r} is a folder of code in data/: give another name, which the "
            "set will have as its folder there"
        )
    if options.cluster is not None and not re.fullmatch(r"(tcp|tls)://\S+:\d+", options.cluster):
        raise ConfigError(f"--cluster is {options.cluster!r}, expected tcp://HOST:PORT")
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


def prepare(options: argparse.Namespace) -> str:
    """Prepare the set that the options describe, or find it finished.

    Returns:
        The closing line, with the counts.

    Raises:
        ConfigError: the set is there with other settings, another process is preparing it, or the
            cluster is not there. DataError: an
            unusable source. RunError: no worker lives long enough, or a damaged record.
    """
    folder = options.root / options.name
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and a set is a folder: give another --name")
    if options.shapes:
        layout, source = "meshes", None
    else:
        layout, source = find_source(
            options.source,
            options.layout,
            options.variant,
            options.test_fraction,
            options.seed,
            options.split_file,
        )
    shape_settings = choose_settings(options, layout, source)
    settings: dict[str, Any] = {
        **asdict(shape_settings),
        "version": VERSION,
        "renderer": shape_settings.renderer,
        **describe_source(options, layout, source),
    }
    if report := None if options.overwrite else find_finished(folder, settings):
        clear_up(folder)
        return f"already prepared {describe(report, folder)}"
    with open_work(folder) as work:
        if source is None:
            source = generate_shapes(options, work)
        records = Records(shape_settings, work / "records")
        run = partial(run_here, workers=options.workers)
        if options.cluster is not None:
            run = partial(run_cluster, address=options.cluster)
        make_records(source.shapes, records, run)
        report = pack(folder, source, shape_settings, settings, records)
        clear_up(folder)
    return f"prepared {describe(report, folder)}"


def generate_shapes(options: argparse.Namespace, work: Path) -> Source:
    """Write the embedded shapes into the work folder."""
    meshes = work / f"meshes-{options.seed}-{options.shapes_train}-{options.shapes_test}"
    generate(meshes, options.seed, options.shapes_train, options.shapes_test)
    return find_files(meshes, options.test_fraction, options.seed)


def main(arguments: list[str] | None = None) -> None:
    try:
        print(prepare(parse(arguments)))
    except OSError as error:  # a full disk, a folder that cannot be written
        raise RunError(
            f"{error}; once that is mended, the same command goes on from here"
        ) from error


if __name__ == "__main__":
    run_main(main)
