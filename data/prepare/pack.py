"""From the records of all shapes to the files of a prepared set: train.h5, test.h5, report.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.parts import MOST_PARTS
from data.prepare.cache import Records
from data.prepare.shape import Record, ShapeSettings
from data.prepare.writer import ShapeRecord, SplitHeader, encode_png, write_split
from data.rendering.cameras import find_rig, hash_recipe, make_cameras
from data.sources.cloud_files import CloudFile
from data.sources.folders import ShapeFile, Source
from data.storage import SPLITS, PreparedSplit, decode_png
from utils.errors import DataError
from utils.files import atomic_path

REPORT = "report.json"

# All that a survey asks of a record.
SURVEYED = ("reason", "count", "sizes", "repeated", "part_names")


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


def assemble(
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
        write_split(folder / f"{split}.h5", header, _read_records(members, records, header))
        hashes[split] = PreparedSplit(folder / f"{split}.h5").data_hash
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
