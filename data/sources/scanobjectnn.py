"""ScanObjectNN: scanned objects of 15 classes, packed, in several variants."""

from __future__ import annotations

from pathlib import Path

from data.sources.folders import Source
from data.sources.packed import find_packed
from utils.errors import DataError

# The order of the labels in ScanObjectNN's files.
# fmt: off
CLASSES = [
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed",
    "pillow", "sink", "sofa", "toilet",
]
# fmt: on
FILES = {"train": "training_objectdataset", "test": "test_objectdataset"}


def find_clouds(folder: Path, variant: str) -> Source:
    """One variant of ScanObjectNN: ``training_objectdataset[_VARIANT].h5`` and ``test_...`` beside.

    Raises:
        DataError: no such variant here; the message lists those that are.
    """
    ending = f"_{variant}.h5" if variant else ".h5"
    files = {split: [folder / (name + ending)] for split, name in FILES.items()}
    if not files["train"][0].is_file():
        begin = FILES["train"]
        there = [path.stem.removeprefix(begin)[1:] for path in folder.glob(f"{begin}*.h5")]
        listed = ", ".join(repr(name) for name in sorted(there))
        raise DataError(f"no {files['train'][0]}; --variant can be {listed} here ('' to omit it)")
    return find_packed(files, CLASSES)
