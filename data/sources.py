"""Finding the meshes of a source folder, their classes and their splits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.meshes import PARTS_SUFFIX, SUFFIXES
from data.storage import SPLITS
from utils.errors import DataError


@dataclass(frozen=True)
class MeshFile:
    """A mesh to prepare. ``id`` is its path below the source, without the suffix."""

    id: str
    path: Path
    class_name: str
    split: str


@dataclass
class Source:
    """What a source folder holds.

    Attributes:
        meshes: sorted by id, no id twice.
        class_names: sorted; the label of a class is its place here.
        skipped: (path below the source, reason) of files that share an id with a mesh.
        is_split: whether the folder itself says what is train and test.
    """

    meshes: list[MeshFile]
    class_names: list[str]
    skipped: list[tuple[str, str]]
    is_split: bool

    def fingerprint(self) -> str:
        """12 hex digits over the ids, suffixes and sizes of all meshes and part labels."""
        content = "\n".join(mesh_fingerprint(mesh) for mesh in self.meshes)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def mesh_fingerprint(mesh: MeshFile) -> str:
    """A mesh's id, suffix, size and the size of its part labels, as one line."""
    parts = mesh.path.with_name(mesh.path.stem + PARTS_SUFFIX)
    labels = parts.stat().st_size if parts.is_file() else 0
    return f"{mesh.id} {mesh.path.suffix} {mesh.path.stat().st_size} {labels}"


def find_meshes(folder: Path, test_fraction: float, seed: int) -> Source:
    """List a folder of either layout: ``<class>/<train|test>/<id>.off`` or ``<class>/<id>.off``.

    Hidden files and files of other kinds are passed over. The second layout is split here, class
    by class: ``test_fraction`` of each, rounded, drawn by ``seed`` and the class's name; a class of
    two meshes or more keeps one at least on either side, as long as the fraction is not 0.

    Raises:
        DataError: no such folder, no classes, a class without meshes, both layouts at once, folders
            of no known meaning, or a split without any mesh.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give a folder of class folders with meshes in them")
    classes = sorted(item for item in folder.iterdir() if item.is_dir() and _is_visible(item))
    if not classes:
        raise DataError(f"{folder} has no class folders: expected <class>/<train|test>/<id>.off")
    files = {item.name: _list_class(item) for item in classes}
    layouts = {split is None for members in files.values() for split, _ in members}
    if len(layouts) > 1:
        raise DataError(
            f"{folder} mixes two layouts: meshes in <class>/train and <class>/test, and "
            "meshes in <class> itself; keep to one"
        )
    is_split = layouts == {False}
    meshes: list[MeshFile] = []
    skipped: list[tuple[str, str]] = []
    for class_name, members in files.items():
        unique: dict[str, tuple[str | None, Path]] = {}
        for split, path in members:
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in unique:
                reason = f"same id as {unique[name][1].name}"
                skipped.append((path.relative_to(folder).as_posix(), reason))
            else:
                unique[name] = (split, path)
        chosen = set() if is_split else _draw_test(sorted(unique), class_name, test_fraction, seed)
        for name, (split, path) in unique.items():
            part = split or ("test" if name in chosen else "train")
            meshes.append(MeshFile(name, path, class_name, part))
    for split in SPLITS:
        if not any(mesh.split == split for mesh in meshes):
            raise DataError(f"{folder} gives no mesh for {split}: both splits need some")
    return Source(sorted(meshes, key=lambda mesh: mesh.id), list(files), sorted(skipped), is_split)


def _list_class(folder: Path) -> list[tuple[str | None, Path]]:
    """(split or None, path) of the meshes of a class folder, sorted by path."""
    found: list[tuple[str | None, Path]] = []
    strangers = []
    for item in sorted(folder.iterdir()):
        if item.is_dir() and item.name in SPLITS:
            found += [(item.name, path) for path in sorted(item.iterdir()) if _is_mesh(path)]
        elif item.is_dir() and _is_visible(item):
            strangers.append(item.name)
        elif _is_mesh(item):
            found.append((None, item))
    if strangers:
        raise DataError(f"{folder} holds a folder {strangers[0]!r}, expected train, test or meshes")
    if not found:
        raise DataError(
            f"class folder {folder} holds no mesh of {', '.join(SUFFIXES)}: add some or remove it"
        )
    return found


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _is_mesh(path: Path) -> bool:
    return _is_visible(path) and path.suffix.lower() in SUFFIXES and path.is_file()


def _draw_test(ids: list[str], class_name: str, fraction: float, seed: int) -> set[str]:
    if fraction == 0 or len(ids) < 2:
        return set()
    count = min(max(round(fraction * len(ids)), 1), len(ids) - 1)
    name_key = int.from_bytes(hashlib.sha256(class_name.encode()).digest()[:8], "little")
    order = np.random.default_rng([seed, name_key]).permutation(len(ids))
    return {ids[place] for place in order[:count]}
