"""Which layout a source folder has. Each data set has a file of its own beside this one, and a line
in :data:`DATA_SETS`; data/README.md has the table of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data.geometry.meshes import SUFFIXES as MESH_SUFFIXES
from data.sources import modelnet40, scanobjectnn, shapenetpart
from data.sources.cloud_files import CloudFile, has_faces
from data.sources.folders import MESHES, FileKind, Source, find_files
from data.storage import SPLITS
from utils.errors import ConfigError, DataError

CLOUD_SUFFIXES = (".ply", ".npy", ".xyz", ".txt")
FOLDERS = {"meshes": MESHES, "clouds": FileKind("clouds", CLOUD_SUFFIXES, CloudFile)}


class DataSet(NamedTuple):
    """The files that tell the layout of a published data set, as patterns, and how it is read;
    ``find`` takes a variant where there are any."""

    marks: tuple[str, ...]
    find: Callable[..., Source]
    has_variants: bool = False


DATA_SETS = {
    "modelnet40-h5": DataSet(("shape_names.txt", "train_files.txt"), modelnet40.find_packed_clouds),
    "modelnet40-normal": DataSet(
        ("modelnet[14]0_shape_names.txt",), modelnet40.find_text_clouds, has_variants=True
    ),
    "scanobjectnn": DataSet(
        ("training_objectdataset*.h5",), scanobjectnn.find_clouds, has_variants=True
    ),
    "shapenet-part": DataSet((shapenetpart.SYNSETS,), shapenetpart.find_clouds),
}
LAYOUTS = (*FOLDERS, *DATA_SETS)


def find_source(
    folder: Path,
    layout: str,
    variant: str,
    test_fraction: float,
    seed: int,
    split_file: Path | None = None,
) -> tuple[str, Source]:
    """The shapes of a source folder.

    Args:
        layout: one of ``LAYOUTS``, or ``auto`` to go by the folder's content.
        variant: of a layout that has some, such as ``augmentedrot_scale75`` of ``scanobjectnn``;
            "" for the main one.
        test_fraction, seed, split_file: for sources without a split, see ``find_files``.

    Returns:
        The layout's name and what was found.

    Raises:
        ConfigError: a variant or split file for a layout that has none. DataError: the folder does
            not hold the layout.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give a folder of class folders with meshes in them")
    layout = recognise(folder) if layout == "auto" else layout
    data_set = DATA_SETS.get(layout)
    if variant and not (data_set and data_set.has_variants):
        raise ConfigError(f"--variant {variant}: the layout {layout} has no variants")
    if data_set is None:
        return layout, find_files(folder, test_fraction, seed, split_file, FOLDERS[layout])
    if split_file is not None:
        raise ConfigError(f"the layout {layout} has a split of its own: leave {split_file} out")
    return layout, data_set.find(folder, variant) if data_set.has_variants else data_set.find(
        folder
    )


def recognise(folder: Path) -> str:
    """The layout of a folder by the files that only it has; ``meshes`` where nothing speaks."""
    for layout, data_set in DATA_SETS.items():
        if all(any(folder.glob(mark)) for mark in data_set.marks):
            return layout
    for name in ("main_split", "main_split_nobg"):
        if (folder / name).is_dir():
            raise DataError(f"{folder} holds several sets: give {folder / name} for one of them")
    return "clouds" if _holds_clouds(folder) else "meshes"


def _holds_clouds(folder: Path) -> bool:
    """Whether class folders hold clouds and no mesh, to which a text file may belong."""
    places = ("*/*", *(f"*/{split}/*" for split in SPLITS))
    by_suffix: dict[str, list[Path]] = {}
    for path in (path for place in places for path in folder.glob(place)):
        if path.is_file() and not path.name.startswith("."):
            by_suffix.setdefault(path.suffix.lower(), []).append(path)
    if any(suffix in MESH_SUFFIXES and suffix != ".ply" for suffix in by_suffix):
        return False
    if any(has_faces(path) for path in by_suffix.get(".ply", [])):
        return False
    return any(suffix in CLOUD_SUFFIXES for suffix in by_suffix)
