"""The files of a prepared set, train.h5, test.h5 and report.json: packed from the records of all
shapes, or found finished."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from data.parts import MOST_PARTS
from data.prepare.shape import Record, ShapeSettings
from data.prepare.workers import Records
from data.prepare.writer import ShapeRecord, SplitHeader, encode_png, write_split
from data.rendering.cameras import find_rig, hash_recipe, make_cameras
from data.sources.cloud_files import CloudFile
from data.sources.folders import ShapeFile, Source
from data.storage import SPLITS, PreparedSplit, decode_png
from utils.errors import ConfigError, DataError
from utils.files import atomic_path

REPORT = "report.json"
WORK = ".work"  # in the set's folder until it is finished

# All that a survey asks of a record.
SURVEYED = ("reason", "count", "sizes", "repeated", "part_names")


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
    if differences := find_differences(found, settings):
        raise ConfigError(
            f"{folder} was prepared with other settings: {differences}; give --overwrite to make "
            "it anew or another --name"
        )
    for split in SPLITS:
        if not (folder / f"{split}.h5").is_file():
            raise DataError(f"{folder} has lost its {split}.h5; --overwrite makes the set anew")
        PreparedSplit(folder / f"{split}.h5")
    return report


def find_differences(found: dict[str, Any], settings: dict[str, Any]) -> str:
    """The settings that were others when something was made, as a list in words; "" for none."""
    return ", ".join(
        f"{key} {found.get(key)!r} (now {settings[key]!r})"
        for key in settings
        if found.get(key) != settings[key]
    )


@contextmanager
def open_work(folder: Path) -> Iterator[Path]:
    """The work folder of a set, for this process alone. It is empty unless a preparation was
    interrupted: that one goes on, even to overwrite a set.

    Raises:
        ConfigError: another process is at work in it.
    """
    work = folder / WORK
    if (folder / REPORT).exists() or not work.is_dir():
        shutil.rmtree(work, ignore_errors=True)
        (folder / REPORT).unlink(missing_ok=True)
        work.mkdir(parents=True)
        for split in SPLITS:
            (folder / f"{split}.h5").unlink(missing_ok=True)
    lock = FileLock(work / "lock")
    with suppress(NotImplementedError):  # a disk without locks
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"another process is preparing {folder}: wait for it, or give another --name"
            ) from None
    try:
        yield work
    finally:
        lock.release()


def clear_up(folder: Path) -> None:
    """Remove the work folder, and temporary files of runs that were killed while writing."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for leftover in folder.glob(".*.tmp.*"):
        leftover.unlink(missing_ok=True)  # by another process of the same run


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


@dataclass
class Survey:
    """What the records hold, found without reading their bulk."""

    usable: list[ShapeFile] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)  # file and reason
    image_bytes: Counter[str] = field(default_factory=Counter)  # by split
    part_names: dict[str, list[str]] = field(default_factory=dict)  # by class
    repeated: int = 0  # clouds with fewer points than are stored


def survey_records(source: Source, records: Records) -> Survey:
    """Look over the records of a source.

    Raises:
        DataError: a class of whose shapes none could be used, or a split left without shapes.
    """
    survey = Survey(
        skipped=[{"file": name, "reason": why} for name, why in source.skipped],
        part_names={name: list(parts) for name, parts in source.part_names.items()},
    )
    reasons: dict[str, list[str]] = {}  # by class
    usual = _usual_count(source, records)
    for shape in source.shapes:
        record = records.read(shape, SURVEYED)
        reason = _reason_to_skip(record, usual)
        if reason:
            survey.skipped.append({"file": shape.place, "reason": reason})
            reasons.setdefault(shape.class_name, []).append(f"{shape.place}: {reason}")
            continue
        survey.usable.append(shape)
        survey.image_bytes[shape.split] += int(record["sizes"].sum())
        survey.repeated += "repeated" in record
        if "part_names" in record:
            known = survey.part_names.setdefault(shape.class_name, [])
            known += [name for name in record["part_names"].tolist() if name not in known]
    survey.skipped.sort(key=lambda entry: entry["file"])
    for class_name in sorted(reasons.keys() - {shape.class_name for shape in survey.usable}):
        because = reasons[class_name]
        raise DataError(
            f"class {class_name}: none of its {len(because)} shapes can be used, the first "
            f"is {because[0]}. Mend them or remove the folder"
        )
    for split in SPLITS:
        if not any(shape.split == split for shape in survey.usable):
            raise DataError(f"no usable shape for {split}: both splits need some")
    return survey


def _usual_count(source: Source, records: Records) -> int:
    """The number of points that most clouds of a source have, where they must have the same."""
    counts: Counter[int] = Counter()
    for shape in source.shapes:
        if not (isinstance(shape, CloudFile) and shape.uniform):  # spares a second reading
            continue
        record = records.read(shape, ("count",))
        if "count" in record:
            counts[int(record["count"])] += 1
    return counts.most_common(1)[0][0] if counts else 0


def _reason_to_skip(record: Record, usual: int) -> str:
    """Why a shape cannot be used, or nothing."""
    if "reason" in record:
        return str(record["reason"])
    if "count" in record and int(record["count"]) != usual:
        return f"{record['count']} points, where most files have {usual}: truncated or another set"
    return ""


def pack(
    folder: Path,
    source: Source,
    shape_settings: ShapeSettings,
    settings: dict[str, Any],
    records: Records,
) -> dict[str, Any]:
    """Write the two splits and then the report, whose presence says that the set is whole.

    Args:
        folder: of the set, ``data/NAME``. settings: to be stored, JSON.
        records: of all shapes of ``source``.

    Returns:
        The report.

    Raises:
        DataError: see :func:`survey_records`. RunError: a record is damaged or has gone.
    """
    survey = survey_records(source, records)
    recipe = shape_settings.views_recipe()
    cameras = make_cameras(find_rig(shape_settings.recipe), shape_settings.image_size)
    hashes = {}
    for split in SPLITS:
        members = [shape for shape in survey.usable if shape.split == split]
        header = SplitHeader(
            name=folder.name,
            split=split,
            source=settings["source"],
            class_names=source.class_names,
            part_names=survey.part_names,
            recipe=recipe,
            recipe_hash=hash_recipe(recipe),
            settings=settings,
            intrinsics=cameras.intrinsics,
            extrinsics=cameras.extrinsics,
            num_shapes=len(members),
            num_points=shape_settings.points,
            image_bytes=survey.image_bytes[split],
        )
        packed = _read_records(members, records, header)
        try:
            hashes[split] = write_split(folder / f"{split}.h5", header, packed)
        except RuntimeError as error:  # of HDF5, where it cannot close a file on a full disk
            raise OSError(f"{folder / split}.h5 cannot be written: {error}") from error
    report = {
        "name": folder.name,
        "found": len(source.shapes) + len(source.skipped),
        "prepared": {s: sum(shape.split == s for shape in survey.usable) for s in SPLITS},
        "classes": _count_classes(survey.usable, source.class_names),
        "skipped": survey.skipped,
        "settings": settings,
        "recipe_hash": hash_recipe(recipe),
        "data_hash": hashes,
    }
    if survey.repeated:
        report["filled_up"] = survey.repeated
    with atomic_path(folder / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _count_classes(usable: list[ShapeFile], class_names: list[str]) -> dict[str, dict[str, int]]:
    counts = Counter((shape.class_name, shape.split) for shape in usable)
    return {name: {split: counts[name, split] for split in SPLITS} for name in class_names}


def _read_records(
    members: list[ShapeFile], records: Records, header: SplitHeader
) -> Iterator[ShapeRecord]:
    for shape in members:
        record = records.read(shape)
        class_parts = header.part_names.get(shape.class_name, [])
        yield ShapeRecord(
            id=shape.id,
            label=header.class_names.index(shape.class_name),
            points=record["points"],
            normals=record["normals"],
            visibility=record["visibility"],
            images=_streams(record["images"], record["sizes"]),
            **_class_parts(record, class_parts),
        )


def _streams(joined: np.ndarray, sizes: np.ndarray) -> list[bytes]:
    ends = np.cumsum(sizes).tolist()
    content = joined.tobytes()
    return [content[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _class_parts(record: Record, class_parts: list[str]) -> dict[str, Any]:
    """Parts and label images of a mesh by their numbers in its class, whose meshes may list
    different parts or the same in another order; nothing for a mesh without labels."""
    if "parts" not in record:
        return {}
    if len(class_parts) > MOST_PARTS:
        raise DataError(f"{len(class_parts)} parts in one class, at most {MOST_PARTS} fit")
    places = np.array([class_parts.index(name) for name in record["part_names"].tolist()], np.uint8)
    images = _streams(record["part_images"], record["part_sizes"])
    table = np.arange(256, dtype=np.uint8)  # what marks no part stays as it is
    table[: len(places)] = places
    if (places != np.arange(len(places))).any():
        images = [encode_png(table[decode_png(stream)]) for stream in images]
    return {"parts": table[record["parts"]], "part_images": images}
