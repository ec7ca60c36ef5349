"""The table of results: one CSV row for every test of a checkpoint."""

from __future__ import annotations

import csv
import fcntl
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from utils.errors import DataError


@dataclass(frozen=True)
class Result:
    """One tested checkpoint. Accuracies in percent, times in seconds."""

    time: str  # of the test, UTC
    role: str  # teacher or student
    run: str  # name of the checkpoint
    data: str
    split: str  # test, val or train
    protocol: str  # how the weights were selected and what was held out
    model: str  # backbone or encoder
    method: str  # baseline, pointmcd, ...
    recipe: str  # loss weights, rate, batch
    points: int  # 0 for a teacher
    epochs: int
    seed: int
    shapes: int  # tested
    overall: float
    mean_class: float
    train_seconds: float
    test_seconds: float
    train_device: str
    device: str
    commit: str  # of the code that trained
    checkpoint: str  # fingerprint of the weights


COLUMNS = [field.name for field in fields(Result)]


def append(path: str | Path, result: Result) -> None:
    """Add a row; safe when several processes append at once.

    Raises:
        DataError: the file has other columns.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        header = file.readline().strip()
        if header and header.split(",") != COLUMNS:
            raise DataError(
                f"{path} has the columns {header}, expected {','.join(COLUMNS)}; move it"
            )
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if not header:
            writer.writeheader()
        writer.writerow(asdict(result))
        file.write(text.getvalue())  # in one piece, so that a kill leaves no part of a row


def read(path: str | Path) -> list[Result]:
    """All rows, with their types.

    Raises:
        DataError: no such file, other columns, or a value that cannot be read.
    """
    if not Path(path).is_file():
        raise DataError(f"no table of results at {path}; test.py writes it")
    types = {
        field.name: {"int": int, "float": float}.get(field.type, str) for field in fields(Result)
    }
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise DataError(f"{path} has the columns {reader.fieldnames}, expected {COLUMNS}")
        results = []
        for number, row in enumerate(reader, start=2):
            try:
                results.append(Result(**{name: types[name](row[name]) for name in COLUMNS}))
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}, line {number}: {error}") from error
    return results
