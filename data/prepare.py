"""Turn a folder of meshes, or the embedded shapes, into a prepared set ``data/NAME/``.

    python -m data.prepare SOURCE --name NAME [--up y] [--recipe ring12] ...
    python -m data.prepare --shapes

Interrupted, the same command goes on and ends with the same bytes. data/README.md describes the
layouts that are read and the files that are written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.assembly import REPORT, assemble
from data.cameras import RIGS, find_rig
from data.meshes import UP_AXES
from data.render import RENDERER, SHADINGS
from data.shapes import MOST_PER_CLASS, generate
from data.sources import find_meshes
from data.storage import SPLITS, VERSION, PreparedSplit
from data.work import ShapeSettings, run_work
from utils.errors import ConfigError, DataError, run_main

WORK = ".work"  # in the set's folder until it is finished
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; ConfigError for what argparse cannot judge."""
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare", description="Turn meshes into a prepared set."
    )
    add, shape = parser.add_argument, ShapeSettings()
    add("source", nargs="?", type=Path, help="folder of <class>/[<train|test>/]<mesh>")
    add("--shapes", action="store_true", help="the embedded parametric shapes, for SOURCE")
    add("--shapes-train", type=int, default=40, help="with --shapes: training shapes a class")
    add("--shapes-test", type=int, default=20, help="with --shapes: test shapes a class")
    add("--name", help="of the set (default with --shapes: Shapes)")
    add("--root", type=Path, default=Path("data"), help="where the set's folder goes")
    add("--up", choices=UP_AXES, default=shape.up, help="the axis that is up in the meshes")
    add("--recipe", default=shape.recipe, help=f"cameras: {', '.join(RIGS)}")
    add("--image-size", type=int, default=shape.image_size, help="pixels a side")
    add("--shading", choices=SHADINGS, default=shape.shading)
    add("--points", type=int, default=shape.points, help="surface samples a shape")
    add("--seed", type=int, default=shape.seed)
    add("--test-fraction", type=float, default=0.2, help="of a source without train and test")
    add("--workers", type=int, default=CORES, help="processes (default: the cores)")
    add("--overwrite", action="store_true", help="make a finished set anew")
    options = parser.parse_args(arguments)
    _check_options(options)
    return options


def _check_options(options: argparse.Namespace) -> None:
    if options.shapes == (options.source is not None):
        raise ConfigError("give either SOURCE, a folder of meshes, or --shapes")
    if options.shapes:
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
        if getattr(options, name) < low:
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
    shape_settings = ShapeSettings(
        **{key: getattr(options, key) for key in asdict(ShapeSettings())}
    )
    settings: dict[str, Any] = {**asdict(shape_settings), "version": VERSION, "renderer": RENDERER}
    if options.shapes:
        counts = f"{options.shapes_train} train and {options.shapes_test} test a class"
        settings |= {"source": "embedded shapes", "meshes": counts, "test_fraction": None}
    else:
        source = find_meshes(options.source, options.test_fraction, options.seed)
        settings["source"] = options.source.resolve().name
        settings["meshes"] = source.fingerprint()
        settings["test_fraction"] = None if source.is_split else options.test_fraction
    if report := None if options.overwrite else find_finished(folder, settings):
        clear_up(folder)
        return f"already prepared {describe(report, folder)}"
    # A work folder without a report is an interrupted run: go on from there, even overwriting.
    if (folder / REPORT).exists() or not work.is_dir():
        start_anew(folder)
    if options.shapes:
        meshes = work / f"meshes-{options.seed}-{options.shapes_train}-{options.shapes_test}"
        generate(meshes, options.seed, options.shapes_train, options.shapes_test)
        source = find_meshes(meshes, options.test_fraction, options.seed)
    run_work(source.meshes, shape_settings, work / "records", options.workers)
    report = assemble(folder, source, shape_settings, settings, work / "records")
    clear_up(folder)
    return f"prepared {describe(report, folder)}"


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
    return (
        f"{train + test:,} of {report['found']:,} meshes into {folder} ({train:,} train / "
        f"{test:,} test), skipped {len(report['skipped'])}: see {folder / REPORT}"
    )


def main() -> None:
    print(prepare(parse()))


if __name__ == "__main__":
    run_main(main)
