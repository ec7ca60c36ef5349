"""The table of results: one CSV row for every test of a checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from utils.errors import ConfigError, DataError
from utils.files import atomic_path

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Result:
    """One tested checkpoint. Accuracies and mIoU in percent, times in seconds.

    Columns with a default came later: a file without them can be read, and gets them with the next
    row that is added to it.
    """

    time: str  # of the test, UTC
    role: str  # teacher or student
    run: str  # name of the checkpoint
    data: str
    split: str  # test, val or train
    protocol: str  # how weights were selected, what was held out, what votes or a probe fits
    model: str  # backbone or encoder
    method: str  # baseline, pointmcd, ...
    recipe: str  # loss weights, rate, batch
    points: int  # 0 for a teacher
    epochs: int
    seed: int
    shapes: int  # tested
    overall: float  # of shapes; of points, or pixels, in segmentation
    mean_class: float | None  # None in segmentation
    train_seconds: float
    test_seconds: float
    train_device: str
    device: str
    commit: str  # of the code that trained
    checkpoint: str  # fingerprint of the weights
    task: str = "classification"  # or segmentation, svm, fewshot
    instance_miou: float | None = None
    class_miou: float | None = None
    instance_miou_lenient: float | None = None  # PointMCD's rule, see utils.part_metrics
    class_miou_lenient: float | None = None
    deviation: float | None = None  # of ``overall`` over the repeats of a few-shot probe or vote
    parameters: int | None = None  # trained: of the network and the heads of its loss terms
    memory: float | None = None  # of the training at its peak, MiB


COLUMNS = [field.name for field in fields(Result)]
REQUIRED = [field.name for field in fields(Result) if field.default is MISSING]


def append(path: str | Path, result: Result) -> None:
    """Add a row; safe when several processes append at once, and whole if one is killed.

    Raises:
        DataError: the file has other columns, or a row that cannot be read.
        ConfigError: it cannot be written.
    """
    path = Path(path)
    with _locked(path):
        known = read(path) if path.is_file() and path.stat().st_size else []
        _write(path, [*known, result])


def rewrite(path: str | Path, change: Callable[[Result], Result]) -> int:
    """Put ``change(row)`` into the place of every row; the number of rows that differ then.

    As safe as :func:`append`; a file in which nothing changes is not touched.

    Raises:
        DataError: no such file, one that cannot be read, or a ValueError of ``change``.
        ConfigError: it cannot be written.
    """
    path = Path(path)
    read(path)  # leaves no lock beside what is no table
    with _locked(path):
        known, changed = read(path), []
        for number, row in enumerate(known, start=2):
            try:
                changed.append(change(row))
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error
        differing = sum(new != old for new, old in zip(changed, known, strict=True))
        if differing:
            _write(path, changed)
    return differing


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone with a table; what keeps it from being written becomes a ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}): give another table") from error


def _write(path: Path, rows: list[Result]) -> None:
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)  # None: an empty field


def read(path: str | Path) -> list[Result]:
    """All rows, with their types; columns that an older file lacks get their defaults.

    Raises:
        DataError: no such file, other columns, or a value that cannot be read.
    """
    if not Path(path).is_file():
        raise DataError(f"no table of results at {path}; test.py writes it")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); move it") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    found = reader.fieldnames or []
    if not set(REQUIRED) <= set(found) <= set(COLUMNS):
        raise DataError(
            f"{path} has the columns {','.join(found)}, expected {','.join(COLUMNS)}; move it"
        )
    results = []
    for number, row in enumerate(reader, start=2):
        try:
            results.append(Result(**{name: _value(name, text) for name, text in row.items()}))
        except (TypeError, ValueError, KeyError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return results


def save_predictions(
    path: Path, ids: list[str], outputs: dict[str, np.ndarray], predictions: dict[str, np.ndarray]
) -> None:
    """What a network says of every tested shape, so that differences between two networks can be
    tested later: ``ids`` (S,), ``labels`` (S,) int16 and the arrays of ``predictions`` (S, ...).

    Args:
        ids: of the whole split. outputs: of :func:`utils.engine.predict`.

    Raises:
        ConfigError: it cannot be written.
    """
    small = {
        name: array.astype(np.int16 if array.dtype.kind in "iu" else np.float32)
        for name, array in {"labels": outputs["label"], **predictions}.items()
    }
    chosen = np.asarray(ids)[outputs["index"]]
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, ids=chosen, **small)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}): give another folder") from error
    print(f"predictions: {path}")


_TYPES = {field.name: field.type for field in fields(Result)}


def _value(name: str | None, text: str | None) -> Any:
    if name is None:
        raise ValueError(f"more fields than the {len(COLUMNS)} columns")
    kind = _TYPES[name]
    if text is None:
        raise ValueError(f"the row ends before {name}")
    if kind.endswith("| None") and text == "":
        return None
    return {"int": int, "float": float, "str": str}[kind.split(" ")[0]](text)


def frame(results: list[Result]) -> DataFrame:
    """The rows as a table of pandas; empty fields are NaN."""
    from pandas import DataFrame  # takes half a second, which a test that adds its row need not

    figures = {name: float for name, kind in _TYPES.items() if kind.startswith("float")}
    return DataFrame(results, columns=COLUMNS).astype(figures)
