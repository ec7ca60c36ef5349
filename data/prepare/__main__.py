"""Turn meshes, clouds or the embedded shapes into a prepared set ``data/NAME/``.

    python -m data.prepare SOURCE --name NAME [--up y] [--recipe ring12] ...
    python -m data.prepare --shapes

Interrupted, the same command goes on and ends with the same bytes. Many machines share the work by
``--shard`` and ``--join``, or by ``torchrun``. data/README.md describes the layouts that are read
and the files that are written.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.prepare.cache import Records
from data.prepare.options import choose_settings, describe_source, parse
from data.prepare.pack import REPORT, assemble
from data.prepare.shard_notes import announced, check_notes, check_whole, wait_for_records
from data.prepare.status import WORK, clear_up, describe, find_finished, start_anew
from data.prepare.workers import run_work
from data.sources.folders import Source, find_files
from data.sources.registry import find_source
from data.storage import VERSION
from data.synthetic.shapes import generate
from utils.errors import ConfigError, DataError, run_main

RECORDS = "records"  # in the work folder


def prepare(options: argparse.Namespace) -> str:
    """Prepare the set that the options describe or a shard of it, or find it finished.

    Returns:
        The closing line, with the counts.

    Raises:
        ConfigError: the set, or a shard, is there with other settings. DataError: unusable source,
            or nothing to join. RunError: a process died, here or under ``torchrun``.
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
    works = open_work(options, folder)
    if source is None:
        source = generate_shapes(options, works[0])
    records = Records(shape_settings, *(work / RECORDS for work in works))
    if line := make_records(options, source, settings, records, works):
        return line
    report = assemble(folder, source, shape_settings, settings, records)
    clear_up(folder)
    return f"prepared {describe(report, folder)}"


def open_work(options: argparse.Namespace, folder: Path) -> list[Path]:
    """The work folder of the set, then those that are joined with it.

    Raises:
        DataError: no shard was ever prepared in a folder to join.
    """
    work = folder / WORK
    if options.shard or options.launched or options.join is not None:
        work.mkdir(parents=True, exist_ok=True)  # others may be at work in it
    # A work folder without a report is an interrupted run: go on from there, even overwriting.
    elif (folder / REPORT).exists() or not work.is_dir():
        start_anew(folder)
    for other in options.join or []:
        if not (other / WORK / RECORDS).is_dir():
            raise DataError(
                f"--join {other}: nothing to join, it has no {WORK}/{RECORDS}; give the folder of "
                "a set in which --shard has been at work"
            )
    return [work, *(other / WORK for other in options.join or [])]


def generate_shapes(options: argparse.Namespace, work: Path) -> Source:
    """Write the embedded shapes into the work folder."""
    meshes = work / f"meshes-{options.seed}-{options.shapes_train}-{options.shapes_test}"
    generate(meshes, options.seed, options.shapes_train, options.shapes_test)
    return find_files(meshes, options.test_fraction, options.seed)


def make_records(
    options: argparse.Namespace,
    source: Source,
    settings: dict[str, Any],
    records: Records,
    works: list[Path],
) -> str:
    """Make the records that fall to this process, or see that all are there to be joined.

    Returns:
        The closing line of a process that leaves it to another to make the set, else "".
    """
    shapes, shard = source.shapes, options.shard or options.launched
    if options.join is not None:
        check_notes(works, settings)
        check_whole(source, records, works)
        return ""
    if shard is None:
        run_work(shapes, records, options.workers)
        return ""
    first = shard.number == 1
    with announced(works[0], shard, settings):
        share = shard.share(shapes)
        run_work(share, records, options.workers, options.shard is not None or first)
        if options.launched and first:
            wait_for_records(source, records, works[0], shard.count)
            return ""
    line = f"prepared {len(share):,} of {len(shapes):,} shapes, those of shard {shard}"
    if options.launched:
        return line
    left = sum(records.find(shape) is None for shape in shapes)
    join = f"this command with --join in the place of --shard {shard} makes the set"
    if left:
        return f"{line}; {left:,} have no record in {works[0]} yet. After the other shards, {join}"
    return f"{line}; every shape has its record in {works[0]}: {join}"


def main(arguments: list[str] | None = None) -> None:
    print(prepare(parse(arguments)))


if __name__ == "__main__":
    run_main(main)
