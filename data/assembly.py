"""From the records of all shapes to the files of a prepared set: train.h5, test.h5, report.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.cameras import describe_recipe, find_rig, hash_recipe, make_cameras
from data.render import RENDERER
from data.sources import MeshFile, Source
from data.split_writer import ShapeRecord, SplitHeader, write_split
from data.storage import SPLITS, UNLABELLED, PreparedSplit
from data.work import ShapeSettings, record_path
from utils.errors import DataError
from utils.files import atomic_path

REPORT = "report.json"


@dataclass
class Survey:
    """What the records hold, found without reading their bulk."""

    usable: list[MeshFile] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)  # file and reason
    image_bytes: Counter[str] = field(default_factory=Counter)  # by split
    part_names: dict[str, list[str]] = field(default_factory=dict)  # by class


def survey_records(source: Source, settings: ShapeSettings, records: Path) -> Survey:
    """Look over the records of a source.

    Raises:
        DataError: a class of which no mesh could be used (its label would name nothing), or a split
            left without shapes.
    """
    survey = Survey(skipped=[{"file": name, "reason": why} for name, why in source.skipped])
    for mesh in source.meshes:
        with np.load(record_path(records, mesh, settings)) as record:
            if "reason" in record:
                name = mesh.id + mesh.path.suffix
                survey.skipped.append({"file": name, "reason": str(record["reason"])})
                continue
            survey.usable.append(mesh)
            survey.image_bytes[mesh.split] += int(record["sizes"].sum())
            if "part_names" in record:
                known = survey.part_names.setdefault(mesh.class_name, [])
                known += [name for name in record["part_names"].tolist() if name not in known]
    survey.skipped.sort(key=lambda entry: entry["file"])
    for class_name in source.class_names:
        if not any(mesh.class_name == class_name for mesh in survey.usable):
            reasons = [
                e["reason"] for e in survey.skipped if e["file"].startswith(f"{class_name}/")
            ]
            raise DataError(
                f"class {class_name}: none of its {len(reasons)} meshes can be used, the first "
                f"because: {reasons[0]}. Mend them or remove the folder"
            )
    for split in SPLITS:
        if not any(mesh.split == split for mesh in survey.usable):
            raise DataError(f"no usable mesh for {split}: both splits need some")
    return survey


def assemble(
    folder: Path,
    source: Source,
    shape_settings: ShapeSettings,
    settings: dict[str, Any],
    records: Path,
) -> dict[str, Any]:
    """Write the two splits and then the report, whose presence says that the set is whole.

    Args:
        folder: of the set, ``data/NAME``. settings: to be stored, JSON.
        records: the folder that ``data.work`` filled.

    Returns:
        The report.

    Raises:
        DataError: see :func:`survey_records`.
    """
    survey = survey_records(source, shape_settings, records)
    recipe = describe_recipe(
        shape_settings.recipe, shape_settings.image_size, shape_settings.shading, RENDERER
    )
    cameras = make_cameras(find_rig(shape_settings.recipe), shape_settings.image_size)
    hashes = {}
    for split in SPLITS:
        members = [mesh for mesh in survey.usable if mesh.split == split]
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
        paths = [record_path(records, mesh, shape_settings) for mesh in members]
        write_split(folder / f"{split}.h5", header, _read_records(members, paths, header))
        hashes[split] = PreparedSplit(folder / f"{split}.h5").data_hash
    report = {
        "name": folder.name,
        "found": len(source.meshes) + len(source.skipped),
        "prepared": {s: sum(mesh.split == s for mesh in survey.usable) for s in SPLITS},
        "classes": _count_classes(survey.usable, source.class_names),
        "skipped": survey.skipped,
        "settings": settings,
        "recipe_hash": hash_recipe(recipe),
        "data_hash": hashes,
    }
    with atomic_path(folder / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _count_classes(usable: list[MeshFile], class_names: list[str]) -> dict[str, dict[str, int]]:
    counts = Counter((mesh.class_name, mesh.split) for mesh in usable)
    return {name: {split: counts[name, split] for split in SPLITS} for name in class_names}


def _read_records(
    members: list[MeshFile], paths: list[Path], header: SplitHeader
) -> Iterator[ShapeRecord]:
    for mesh, path in zip(members, paths, strict=True):
        with np.load(path) as record:
            streams = record["images"].tobytes()
            ends = np.cumsum(record["sizes"]).tolist()
            yield ShapeRecord(
                id=mesh.id,
                label=header.class_names.index(mesh.class_name),
                points=record["points"],
                normals=record["normals"],
                visibility=record["visibility"],
                images=[streams[a:b] for a, b in zip([0, *ends], ends, strict=False)],
                parts=_class_parts(record, header.part_names.get(mesh.class_name, [])),
            )


def _class_parts(record: Any, class_parts: list[str]) -> np.ndarray | None:
    """Part numbers of a mesh as numbers in its class, whose meshes may list parts differently."""
    if "parts" not in record:
        return None
    places = [class_parts.index(name) for name in record["part_names"].tolist()]
    if len(class_parts) > UNLABELLED:
        raise DataError(f"{len(class_parts)} parts in one class, at most {UNLABELLED} fit")
    return np.array(places, np.uint8)[record["parts"]]
