"""Files that are either whole or not there: write to a temporary name, flush, rename."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import ConfigError


@contextmanager
def atomic_path(path: str | Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    The suffix is kept, for writers that go by it. A killed process leaves at most the temporary
    file, never a half-written ``path``. Without ``flush`` this is not promised for a machine that
    loses its power: such a file has to show by itself that it is whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several machines that share a disk may have the same number.
    writer = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.stem}.{writer}.tmp{path.suffix}")
    try:
        yield temporary
        if flush:
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: str | Path) -> None:
    """Raise ConfigError unless a file can be written at ``path``; for programs that compute long
    before they write. Its folder is there afterwards."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}): give another place") from error
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected the name of a file to write")
