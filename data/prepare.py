"""Turn meshes, clouds or the embedded shapes into a prepared set ``data/NAME/``.

    python -m data.prepare SOURCE --name NAME [--up y] [--recipe ring12] ...
    python -m data.prepare --shapes

Interrupted, the same command goes on and ends with the same bytes. data/README.md describes the
layouts that are read and the files that are written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.assembly import REPORT, assemble
from data.cameras import RIGS, find_rig
from data.cloud_layouts import LAYOUTS, find_source
from data.hidden_points import DEFAULT_VISIBILITY, HPR_RADIUS, VISIBILITIES
from data.meshes import UP_AXES
from data.records import CloudSettings, ShapeSettings
from data.render import SHADINGS
from data.shapes import MOST_PER_CLASS, generate
from data.sources import Source, find_files
from data.storage import SPLITS, VERSION, PreparedSplit
from data.work import run_work
from utils.errors import ConfigError, DataError, run_main

WORK = ".work"  # in the set's folder until it is finished
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

UP_HELP = (
    "the axis that is up in the files (default: z; y in the public ModelNet40 clouds, ScanObjectNN "
    "and ShapeNetPart)"
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
    add("--workers", type=int, default=CORES, help="processes (default: the cores)")
    add("--overwrite", action="store_true", help="make a finished set anew")
    options = parser.parse_args(arguments)
    _check_options(options)
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


def prepare(options: argparse.Namespace) -> str:
    """Prepare the set that the options describe, or find it finished.

    Returns:
        The closing line, with the counts.

    Raises:
        ConfigError: the set is there with other settings. DataError: unusable source.
    """
    folder = options.root / options.name
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and a set is a folder: give another --name")
    work = folder / WORK
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
    # A work folder without a report is an interrupted run: go on from there, even overwriting.
    if (folder / REPORT).exists() or not work.is_dir():
        start_anew(folder)
    if options.shapes:
        meshes = work / f"meshes-{options.seed}-{options.shapes_train}-{options.shapes_test}"
        generate(meshes, options.seed, options.shapes_train, options.shapes_test)
        source = find_files(meshes, options.test_fraction, options.seed)
    run_work(source.shapes, shape_settings, work / "records", options.workers)
    report = assemble(folder, source, shape_settings, settings, work / "records")
    clear_up(folder)
    return f"prepared {describe(report, folder)}"


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


def find_finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a finished set with these settings, None where there is no finished set.

    Raises:
        ConfigError: the folder holds a set with other settings, or files of unknown settings.
        DataError: the set is damaged.
    """
    path = folder / REPORT
    if not path.is_file():
        if not (folder / WORK).is_dir() and any((folder / f"{s}.h5").exists() for s in SPLITS):
            raise ConfigError(
                f"{folder} holds splits but no {REPORT}, so nobody knows how they were made; give "
                "--overwrite to replace them or another --name"
            )
        return None
    try:
        report = json.loads(path.read_text())
        found = dict(report["settings"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); --overwrite makes the set anew") from error
    differing = [
        f"{key} {found.get(key)!r} (now {settings[key]!r})"
        for key in settings
        if found.get(key) != settings[key]
    ]
    if differing:
        raise ConfigError(
            f"{folder} was prepared with other settings: {', '.join(differing)}; give --overwrite "
            "to make it anew or another --name"
        )
    for split in SPLITS:
        if not (folder / f"{split}.h5").is_file():
            raise DataError(f"{folder} has lost its {split}.h5; --overwrite makes the set anew")
        PreparedSplit(folder / f"{split}.h5")
    return report


def start_anew(folder: Path) -> None:
    """Leave a set's folder with an empty work folder and nothing else of ours."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    (folder / REPORT).unlink(missing_ok=True)
    (folder / WORK).mkdir(parents=True)
    for split in SPLITS:
        (folder / f"{split}.h5").unlink(missing_ok=True)


def clear_up(folder: Path) -> None:
    """Remove the work folder, and temporary files of runs that were killed while writing."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for leftover in folder.glob(".*.tmp.*"):
        leftover.unlink()


def describe(report: dict[str, Any], folder: Path) -> str:
    """The counts of a report as the end of a sentence."""
    train, test = (report["prepared"][split] for split in SPLITS)
    settings = report["settings"]
    noun = f"clouds of {settings['points']:,} points" if "clouds" in settings else "meshes"
    notes = f"skipped {len(report['skipped'])}"
    if "filled_up" in report:
        notes += f", {report['filled_up']:,} with fewer points repeat some"
    absent = [name for name, counts in report["classes"].items() if not any(counts.values())]
    if absent:
        notes += f", nothing of the classes {', '.join(absent)}"
    return (
        f"{train + test:,} of {report['found']:,} {noun} into {folder} ({train:,} train / "
        f"{test:,} test), {notes}: see {folder / REPORT}"
    )


def main() -> None:
    print(prepare(parse()))


if __name__ == "__main__":
    run_main(main)
