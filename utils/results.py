"""The table of results: one CSV row for every test of a checkpoint."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from utils.errors import DataError
from utils.files import atomic_path


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
    protocol: str  # how the weights were selected, what was held out, what a probe fits
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
    deviation: float | None = None  # of ``overall`` over the repeats of a few-shot probe


COLUMNS = [field.name for field in fields(Result)]
REQUIRED = [field.name for field in fields(Result) if field.default is MISSING]


def append(path: str | Path, result: Result) -> None:
    """Add a row; safe when several processes append at once.

    Raises:
        DataError: the file has other columns, or a row that cannot be read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as file:
        header = file.readline().strip()
        if header and header.split(",") != COLUMNS:
            rows = read(path)  # of an older form, or refused here
            with atomic_path(path) as temporary:
                temporary.write_text(_text([*rows, result], header=True))
            return
        # in one piece, so that a kill leaves no part of a row
        file.write(_text([result], header=not header))


@contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """The file, open to append, at its beginning and for this process alone."""
    while True:
        with open(path, "a+", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # While this one waited, another may have put a new file in its place.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.seek(0)
                yield file
                return


def _text(rows: list[Result], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(asdict(row) for row in rows)  # None becomes an empty field
    return text.getvalue()


def read(path: str | Path) -> list[Result]:
    """All rows, with their types; columns that an older file lacks get their defaults.

    Raises:
        DataError: no such file, other columns, or a value that cannot be read.
    """
    if not Path(path).is_file():
        raise DataError(f"no table of results at {path}; test.py writes it")
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        found = reader.fieldnames or []
        if not set(REQUIRED) <= set(found) <= set(COLUMNS):
            raise DataError(
                f"{path} has the columns {','.join(found)}, expected {','.join(COLUMNS)}; move it"
            )
        results = []
        for number, row in enumerate(reader, start=2):
            try:
                values = {name: _value(name, text) for name, text in row.items()}
                results.append(Result(**values))
            except (TypeError, ValueError, KeyError) as error:
                raise DataError(f"{path}, line {number}: {error}") from error
    return results


_TYPES = {field.name: field.type for field in fields(Result)}


def _value(name: str, text: str | None) -> Any:
    kind = _TYPES[name]
    if text is None:
        raise ValueError(f"the row ends before {name}")
    if kind.endswith("| None") and text == "":
        return None
    return {"int": int, "float": float, "str": str}[kind.split(" ")[0]](text)
