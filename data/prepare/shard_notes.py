"""What shards say of themselves, for those who join them or wait for them.

Every shard keeps a note in the work folder: what it prepares, renewed for as long as it is at work.
Whether a shard is done is asked of the records alone, so no note has to be right for the set to be
whole, and neither kills nor repetitions can make one wrong.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.prepare.cache import Records
from data.prepare.shards import Shard
from data.prepare.status import find_differences
from data.sources.folders import Source
from utils.errors import ConfigError, DataError, RunError
from utils.files import atomic_path

NOTES = "shards"  # in the work folder
BEAT = 15.0  # seconds after which a shard renews its note
SILENCE = 600.0  # and after which it counts as dead; network disks show changes up to a minute late
POLL = 0.2
MOST_NAMED = 8


@contextmanager
def announced(work: Path, shard: Shard, settings: dict[str, Any]) -> Iterator[None]:
    """Keep the note of a shard while the block runs.

    Raises:
        ConfigError: another shard in ``work`` has other settings.
    """
    check_notes([work], settings)
    path = _note(work, shard)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings) + "\n")
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with suppress(OSError):  # whoever joins the shards removes the folder
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def check_notes(works: Iterable[Path], settings: dict[str, Any]) -> None:
    """Raise ConfigError if shards in these work folders were made with other settings, which
    include the fingerprint of the source."""
    for work in works:
        for path, shard in _notes(work):
            try:
                found = dict(json.loads(path.read_text()))
            except FileNotFoundError:  # joined meanwhile
                continue
            except (OSError, ValueError, TypeError) as error:
                raise DataError(f"{path} is damaged ({error}): remove it") from error
            if differences := find_differences(found, settings):
                raise ConfigError(
                    f"{work} holds shard {shard} of other settings: {differences}; remove {work} "
                    "to begin anew, or give the options of that shard or another --name"
                )


def check_whole(source: Source, records: Records, works: Iterable[Path]) -> None:
    """Raise DataError if shapes have no record, with the shards whose share they are."""
    left = [place for place, shape in enumerate(source.shapes) if records.find(shape) is None]
    if not left:
        return
    counts = {shard.count for work in works for _, shard in _notes(work)}
    lacking = ""
    if len(counts) == 1:
        count = counts.pop()
        by_shard = Counter(place % count for place in left)
        parts = [f"{by_shard[n]:,} of --shard {Shard.of(n, count)}" for n in sorted(by_shard)]
        more = f" and {len(parts) - MOST_NAMED} more" if len(parts) > MOST_NAMED else ""
        lacking = f": {', '.join(parts[:MOST_NAMED])}{more}. Those commands go on where they were"
    raise DataError(
        f"{len(left):,} of {len(source.shapes):,} shapes have no record yet{lacking}. Without "
        "--join the command prepares here what is missing"
    )


def wait_for_records(source: Source, records: Records, work: Path, count: int) -> None:
    """Wait until all of ``count`` shards, which run at the same time, have made their records.

    Raises:
        RunError: a shard that still has to make one has not renewed its note for ``SILENCE``.
    """
    shapes = source.shapes
    for place, shape in enumerate(tqdm(shapes, "shapes of all processes", unit="shape")):
        shard = Shard.of(place, count)
        seen, since = None, time.monotonic()  # by this machine's clock: others may go wrong
        while records.find(shape) is None:
            stamp = _stamp(_note(work, shard))
            if stamp != seen:
                seen, since = stamp, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                raise RunError(
                    f"process {place % count} has not made the record of {shape.id} and has shown "
                    f"no sign of life in {work} for {SILENCE:g} seconds. Did it die, or is that "
                    "folder not on a disk that all machines share (then use --shard and --join)? "
                    "The same command goes on from here"
                )
            time.sleep(POLL)


def _note(work: Path, shard: Shard) -> Path:
    return work / NOTES / f"{shard.number}-of-{shard.count}.json"


def _notes(work: Path) -> list[tuple[Path, Shard]]:
    found = []
    for path in sorted((work / NOTES).glob("[!.]*.json")):
        if match := re.fullmatch(r"(\d+)-of-(\d+)", path.stem):
            found.append((path, Shard(int(match[1]), int(match[2]))))
    return found


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
