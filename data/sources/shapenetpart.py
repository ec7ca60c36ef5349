"""ShapeNetPart: clouds of 16 categories with 50 part labels, in text files that lists name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data.sources.cloud_files import (
    Cloud,
    CloudFile,
    Collector,
    SourceError,
    read_lines,
    read_table,
)
from data.sources.folders import Source
from utils.errors import DataError

# The official categories of ShapeNetPart and how many of its 50 parts each has: the parts are
# numbered through in this order.
PART_COUNTS = {
    "Airplane": 4,
    "Bag": 2,
    "Cap": 2,
    "Car": 4,
    "Chair": 4,
    "Earphone": 3,
    "Guitar": 3,
    "Knife": 2,
    "Lamp": 4,
    "Laptop": 2,
    "Motorbike": 6,
    "Mug": 2,
    "Pistol": 3,
    "Rocket": 3,
    "Skateboard": 3,
    "Table": 3,
}
SYNSETS = "synsetoffset2category.txt"
# The official lists of ShapeNetPart: as usual, its validation shapes are trained on.
LISTS = {"train": ("train", "val"), "test": ("test",)}


def find_clouds(folder: Path) -> Source:
    """ShapeNetPart with normals: ``<synset>/<name>.txt`` of ``x y z nx ny nz label`` lines.

    The classes are the official 16, also where a folder holds fewer, so that the global part
    numbers are the official 0 to 49 and networks for them fit any subset.

    Raises:
        DataError: a list is missing or damaged, names an unknown synset, or a shape twice.
    """
    categories = _read_synsets(folder / SYNSETS)
    collector = Collector(folder, read_parts)
    for split, lists in LISTS.items():
        for name in lists:
            path = folder / "train_test_split" / f"shuffled_{name}_file_list.json"
            for number, entry in enumerate(_read_entries(path)):
                synset, _, stem = entry.removeprefix("shape_data/").partition("/")
                if synset not in categories or not stem:
                    raise DataError(
                        f"{path} entry {number}: {entry!r}, expected shape_data/SYNSET/NAME with a "
                        f"synset of {SYNSETS}"
                    )
                file = folder / synset / f"{stem}.txt"
                collector.add(file, categories[synset], split, f"{path.name} entry {number}")
    source = collector.source(list(PART_COUNTS))
    source.part_names = {name: part_names(name) for name in PART_COUNTS}
    return source


def _read_synsets(path: Path) -> dict[str, str]:
    """Synset -> category."""
    pairs = [line.split() for line in read_lines(path)]
    for number, words in enumerate(pairs, 1):
        if len(words) != 2 or words[0] not in PART_COUNTS:
            raise DataError(
                f"{path} line {number}: {' '.join(words)!r}, expected one of the 16 categories "
                f"({', '.join(PART_COUNTS)}) and its synset"
            )
    return {synset: category for category, synset in pairs}


def _read_entries(path: Path) -> list[str]:
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the list {path}: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise DataError(f"{path} is no list of names")
    return entries


def part_names(class_name: str) -> list[str]:
    """Names of the parts of a ShapeNetPart category, which the set does not give: part0, ..."""
    return [f"part{number}" for number in range(PART_COUNTS[class_name])]


def first_part(class_name: str) -> int:
    """The official number of a ShapeNetPart category's first part."""
    counts = list(PART_COUNTS.values())
    return sum(counts[: list(PART_COUNTS).index(class_name)])


def read_parts(shape: CloudFile) -> Cloud:
    """``x y z nx ny nz label`` lines, with the label counted through all categories."""
    table = read_table(shape.path, 7)
    begin = first_part(shape.class_name)
    end = begin + PART_COUNTS[shape.class_name]
    labels = table[:, 6]
    wrong = np.flatnonzero((labels != np.rint(labels)) | (labels < begin) | (labels >= end))
    if len(wrong):
        row = wrong[0]
        raise SourceError(
            f"{shape.path}: point {row + 1} has part label {labels[row]:g}, expected {begin} to "
            f"{end - 1} for {shape.class_name}: the numbers of the official 50 parts"
        )
    return Cloud(
        table[:, :3], table[:, 3:6], (labels - begin).astype(np.uint8), part_names(shape.class_name)
    )
