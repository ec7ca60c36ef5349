"""Finding the shapes of a source folder, their classes and their splits."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.geometry.meshes import SUFFIXES, label_file
from data.storage import SPLITS
from utils.errors import DataError


@dataclass(frozen=True, slots=True)
class ShapeFile:
    """A mesh to prepare, and the base of a cloud to prepare. Set-wide unique: ``id``, which for
    shapes found in folders is the path below the source, without the suffix."""

    id: str
    path: Path
    class_name: str
    split: str

    @property
    def place(self) -> str:
        """Where in the source it is, for people to find it."""
        return self.id + self.path.suffix

    def fingerprint(self) -> str:
        """The id, suffix, size and the size of the part labels, as one line."""
        parts = label_file(self.path)
        labels = parts.stat().st_size if parts else 0
        return f"{self.id} {self.path.suffix} {self.path.stat().st_size} {labels}"


@dataclass
class Source:
    """What a source holds.

    Attributes:
        shapes: sorted by id, no id twice.
        class_names: the label of a class is its place here; sorted, unless the source has an order
            of its own.
        skipped: (path below the source, reason) of what is left out already.
        is_split: whether the source itself says what is train and test.
        part_names: class -> parts, where the source knows them beforehand.
        num_points: of every shape, where the source knows it beforehand.
    """

    shapes: list[ShapeFile]
    class_names: list[str]
    skipped: list[tuple[str, str]]
    is_split: bool
    part_names: dict[str, list[str]] = field(default_factory=dict)
    num_points: int | None = None

    def fingerprint(self) -> str:
        """12 hex digits over the fingerprints of all shapes."""
        content = "\n".join(shape.fingerprint() for shape in self.shapes)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class FileKind:
    """Shapes in single files: what to call them, their suffixes, what stands for one of them."""

    noun: str
    suffixes: tuple[str, ...]
    shape: type[ShapeFile]


MESHES = FileKind("meshes", SUFFIXES, ShapeFile)


def find_files(
    folder: Path,
    test_fraction: float,
    seed: int,
    split_file: Path | None = None,
    kind: FileKind = MESHES,
) -> Source:
    """List a folder of either layout: ``<class>/<train|test>/<id>.off`` or ``<class>/<id>.off``.

    Hidden files and files of other kinds are passed over. The second layout is split here, class
    by class: ``test_fraction`` of each, rounded, drawn by ``seed`` and the class's name; a class of
    two shapes or more keeps one at least on either side, as long as the fraction is not 0. A
    ``split_file`` says instead which id belongs where, see :func:`read_split_file`.

    Raises:
        DataError: no such folder, no classes, a class without shapes, both layouts at once, folders
            of no known meaning, a split without any shape, or a split file that does not fit.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give one of class folders with {kind.noun} in them")
    classes = sorted(item for item in folder.iterdir() if item.is_dir() and _is_visible(item))
    if not classes:
        raise DataError(
            f"{folder} has no class folders: expected <class>/<train|test>/<id>{kind.suffixes[0]}"
        )
    files = {item.name: _list_class(item, kind) for item in classes}
    layouts = {split is None for members in files.values() for split, _ in members}
    if len(layouts) > 1:
        raise DataError(
            f"{folder} mixes two layouts: {kind.noun} in <class>/train and <class>/test, and "
            f"{kind.noun} in <class> itself; keep to one"
        )
    is_split = layouts == {False}
    if is_split and split_file is not None:
        raise DataError(f"{folder} has folders train and test already: leave {split_file} out")
    belongs = {} if split_file is None else read_split_file(split_file)
    shapes: list[ShapeFile] = []
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
        if is_split:
            belongs |= {name: split for name, (split, _) in unique.items()}
        elif split_file is None:
            belongs |= _draw_split(sorted(unique), class_name, test_fraction, seed)
        for name, (_, path) in unique.items():
            if name not in belongs:
                raise DataError(f"{split_file} does not say where {name} of {folder} belongs")
            shapes.append(kind.shape(name, path, class_name, belongs[name]))
    absent = sorted(belongs.keys() - {shape.id for shape in shapes})
    if absent:
        raise DataError(
            f"{split_file} names {len(absent)} {kind.noun} that {folder} lacks, such as {absent[0]}"
        )
    for split in SPLITS:
        if not any(shape.split == split for shape in shapes):
            raise DataError(f"{folder} gives no {kind.noun} for {split}: both splits need some")
    shapes.sort(key=lambda shape: shape.id)
    return Source(shapes, list(files), sorted(skipped), is_split)


def read_split_file(path: Path) -> dict[str, str]:
    """Read a JSON object ``{"train": [ids], "test": [ids]}`` as id -> split.

    Raises:
        DataError: no such file, not of that form, or an id twice.
    """
    if not path.is_file():
        raise DataError(f"no split file {path}")
    try:
        content = json.loads(path.read_text())
        rows = [(name, split) for split in SPLITS for name in content[split]]
        belongs = dict(rows)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} is no split file ({error!r}): expected {{"train": [ids], "test": [ids]}}'
        ) from error
    if set(content) != set(SPLITS) or not all(isinstance(name, str) for name in belongs):
        raise DataError(f'{path} is no split file: expected {{"train": [ids], "test": [ids]}}')
    name, count = Counter(name for name, _ in rows).most_common(1)[0] if rows else ("", 0)
    if count > 1:
        raise DataError(f"{path} names {name} {count} times, expected each mesh once")
    return belongs


def _list_class(folder: Path, kind: FileKind) -> list[tuple[str | None, Path]]:
    """(split or None, path) of the shapes in a class folder, sorted by path."""
    found: list[tuple[str | None, Path]] = []
    strangers = []
    for item in sorted(folder.iterdir()):
        if item.is_dir() and item.name in SPLITS:
            found += [(item.name, path) for path in sorted(item.iterdir()) if _is_shape(path, kind)]
        elif item.is_dir() and _is_visible(item):
            strangers.append(item.name)
        elif _is_shape(item, kind):
            found.append((None, item))
    if strangers:
        raise DataError(
            f"{folder} holds a folder {strangers[0]!r}, expected train, test or {kind.noun}"
        )
    if not found:
        raise DataError(
            f"class folder {folder} holds no {kind.noun} ({', '.join(kind.suffixes)}): add some or "
            "remove it"
        )
    return found


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _is_shape(path: Path, kind: FileKind) -> bool:
    return _is_visible(path) and path.suffix.lower() in kind.suffixes and path.is_file()


def _draw_split(ids: list[str], class_name: str, fraction: float, seed: int) -> dict[str, str]:
    count = min(max(round(fraction * len(ids)), 1), len(ids) - 1) if fraction > 0 else 0
    name_key = int.from_bytes(hashlib.sha256(class_name.encode()).digest()[:8], "little")
    order = np.random.default_rng([seed, name_key]).permutation(len(ids))
    test = {ids[place] for place in order[:count]}
    return {name: "test" if name in test else "train" for name in ids}
