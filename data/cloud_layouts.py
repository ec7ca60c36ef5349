"""Which layout a source folder has, and the shapes of the layouts that keep clouds as text files.

The packed layouts are in ``data.packed_clouds``; data/README.md has the table of all of them.
"""

from __future__ import annotations

import json
from pathlib import Path

from data.cloud_sources import SHAPENET_PARTS, CloudFile, has_faces, part_names
from data.meshes import SUFFIXES as MESH_SUFFIXES
from data.packed_clouds import SCANOBJECTNN_FILES, find_modelnet_h5, find_scanobjectnn, read_lines
from data.sources import MESHES, FileKind, Source, find_files
from data.storage import SPLITS
from utils.errors import ConfigError, DataError

CLOUD_SUFFIXES = (".ply", ".npy", ".xyz", ".txt")
FILES = {"meshes": MESHES, "clouds": FileKind("clouds", CLOUD_SUFFIXES, CloudFile)}
LAYOUTS = (*FILES, "modelnet40-h5", "modelnet40-normal", "scanobjectnn", "shapenet-part")
SYNSETS = "synsetoffset2category.txt"
MODELNETS = ("modelnet40", "modelnet10")  # with class names and lists of shapes of their own
# The official lists of ShapeNetPart: as usual, its validation shapes are trained on.
SHAPENET_LISTS = {"train": ("train", "val"), "test": ("test",)}


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
        variant: of ``scanobjectnn`` (such as ``augmentedrot_scale75``) and ``modelnet40-normal``
            (``modelnet10``); "" for the main one.
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
    if variant and layout not in ("scanobjectnn", "modelnet40-normal"):
        raise ConfigError(f"--variant {variant}: the layout {layout} has no variants")
    if layout in FILES:
        return layout, find_files(folder, test_fraction, seed, split_file, FILES[layout])
    if split_file is not None:
        raise ConfigError(f"the layout {layout} has a split of its own: leave {split_file} out")
    if layout == "modelnet40-h5":
        return layout, find_modelnet_h5(folder)
    if layout == "scanobjectnn":
        return layout, find_scanobjectnn(folder, variant)
    if layout == "modelnet40-normal":
        return layout, find_modelnet_normal(folder, variant)
    return layout, find_shapenet_part(folder)


def recognise(folder: Path) -> str:
    """The layout of a folder by the files that only it has; ``meshes`` where nothing speaks."""
    if (folder / "shape_names.txt").is_file() and (folder / "train_files.txt").is_file():
        return "modelnet40-h5"
    if any((folder / f"{name}_shape_names.txt").is_file() for name in MODELNETS):
        return "modelnet40-normal"
    if any(folder.glob(f"{SCANOBJECTNN_FILES['train']}*.h5")):
        return "scanobjectnn"
    if (folder / SYNSETS).is_file():
        return "shapenet-part"
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


def find_modelnet_normal(folder: Path, variant: str) -> Source:
    """``modelnet40_normal_resampled``: ``<class>/<class>_0001.txt`` of ``x,y,z,nx,ny,nz`` lines.

    ``modelnet40_shape_names.txt`` and ``modelnet40_{train,test}.txt`` say what belongs to it; with
    variant ``modelnet10`` the lists of that name. Shapes of lists whose class has no folder are
    left out without a word, single files that are missing are listed as skipped.

    Raises:
        DataError: a list is missing, names an unknown class, or a shape twice.
    """
    there = [name for name in MODELNETS if (folder / f"{name}_shape_names.txt").is_file()]
    name = variant or (there or MODELNETS)[0]
    if name not in MODELNETS:
        raise ConfigError(f"--variant {variant}, expected one of {', '.join(MODELNETS)}")
    class_names = read_lines(folder / f"{name}_shape_names.txt")
    collector = Collector(folder, "normals")
    for split in SPLITS:
        path = folder / f"{name}_{split}.txt"
        for number, stem in enumerate(read_lines(path), 1):
            class_name = stem.rpartition("_")[0]
            if class_name not in class_names:
                raise DataError(f"{path} entry {number}: {stem!r} is of none of the known classes")
            file = folder / class_name / f"{stem}.txt"
            collector.add(file, class_name, split, f"{path.name} entry {number}")
    return collector.source(class_names)


def find_shapenet_part(folder: Path) -> Source:
    """ShapeNetPart with normals: ``<synset>/<name>.txt`` of ``x y z nx ny nz label`` lines.

    The classes are the official 16, also where a folder holds fewer, so that the global part
    numbers are the official 0 to 49 and networks for them fit any subset.

    Raises:
        DataError: a list is missing or damaged, names an unknown synset, or a shape twice.
    """
    categories = _read_synsets(folder / SYNSETS)
    collector = Collector(folder, "parts")
    for split, lists in SHAPENET_LISTS.items():
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
    source = collector.source(list(SHAPENET_PARTS))
    source.part_names = {name: part_names(name) for name in SHAPENET_PARTS}
    return source


def _read_synsets(path: Path) -> dict[str, str]:
    """Synset -> category."""
    pairs = [line.split() for line in read_lines(path)]
    for number, words in enumerate(pairs, 1):
        if len(words) != 2 or words[0] not in SHAPENET_PARTS:
            raise DataError(
                f"{path} line {number}: {' '.join(words)!r}, expected one of the 16 categories "
                f"({', '.join(SHAPENET_PARTS)}) and its synset"
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


class Collector:
    """Gathers the text files that lists name.

    Args:
        folder: of the source. kind: how the files are read, see ``CloudFile``.
    """

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        self.shapes: list[CloudFile] = []
        self.skipped: list[tuple[str, str]] = []
        self._where: dict[Path, str] = {}
        self._there: dict[Path, set[str]] = {}  # class folder -> its files

    def add(self, path: Path, class_name: str, split: str, where: str) -> None:
        """Take up a file that the list entry ``where`` names.

        Raises:
            DataError: an entry before named it too.
        """
        if path in self._where:
            raise DataError(f"{where} names {path}, as {self._where[path]} does already")
        self._where[path] = where
        parent = path.parent
        if parent not in self._there:
            self._there[parent] = {item.name for item in parent.glob("*.txt")}
        if path.name in self._there[parent]:
            shape_id = f"{class_name}/{split}/{path.stem}"
            self.shapes.append(CloudFile(shape_id, path, class_name, split, self.kind))
        elif self._there[parent]:
            name = path.relative_to(self.folder).as_posix()
            self.skipped.append((name, f"no such file, and {where} names it"))

    def source(self, class_names: list[str]) -> Source:
        """What was gathered; DataError where a split got nothing."""
        for split in SPLITS:
            if not any(shape.split == split for shape in self.shapes):
                raise DataError(f"{self.folder} gives no cloud for {split}: both splits need some")
        shapes = sorted(self.shapes, key=lambda shape: shape.id)
        return Source(shapes, class_names, sorted(self.skipped), True)
