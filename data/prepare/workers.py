"""The records of many shapes, made by processes of this machine or of a cluster.

The record of a shape, an ``.npz`` file, lies in the work folder of the set from the moment its
shape is prepared until the set is packed. It depends on the shape's file and the settings alone and
is written atomically: neither interruptions, nor workers that die, nor the number of processes or
machines change a byte of the set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from data.prepare.shape import Record, ShapeSettings, prepare_shape
from data.sources.cloud_files import SourceError
from data.sources.folders import ShapeFile
from utils.errors import DataError, RunError
from utils.files import atomic_path
from utils.progress import Progress

RECORD = 5  # raise it whenever a record holds other things: those of an older program are no use
THREADS = "OMP_NUM_THREADS"
AHEAD = 4  # shapes handed out per worker: none waits for the next, and few lie in memory
DIED = "its process died at every try, killed or for want of memory"
TRIES = 2  # of a shape alone, after one in company: a worker may be killed by accident
MANY = 8  # shapes given up in a row are no accident


class Records:
    """The records of a set's shapes.

    A record's name depends on all that decides its content, the settings and the shape's file: a
    record that is there is the right one. They are spread over 256 folders, because few file
    systems like a million files in one.
    """

    def __init__(self, settings: ShapeSettings, folder: Path):
        self.settings = settings
        self.folder = folder.absolute()  # workers of a cluster may run in other folders
        identity = [settings.renderer, RECORD, asdict(settings)]
        self.given_up: set[str] = set()  # ids of shapes that no process survives
        self._digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())

    def path(self, shape: ShapeFile) -> str:
        """Where the record of a shape is written."""
        digest = self._digest.copy()
        digest.update(shape.fingerprint().encode())
        name = digest.hexdigest()[:32]
        return f"{self.folder}/{name[:2]}/{name[2:]}.npz"

    def has(self, shape: ShapeFile) -> bool:
        try:  # a machine that lost its power may leave empty files
            return os.stat(self.path(shape)).st_size > 0
        except OSError:
            return False

    def read(self, shape: ShapeFile, names: Collection[str] | None = None) -> Record:
        """The record of a shape, or those of the named arrays that it has.

        Raises:
            RunError: it is not there any more, or damaged.
        """
        if shape.id in self.given_up:
            return {"reason": np.array(DIED)}
        path = self.path(shape)
        try:
            with np.load(path) as file:
                return {name: file[name] for name in file if names is None or name in names}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(
                f"the record of {shape.place}, {path}, is damaged or has gone ({error}); remove it "
                "if it is there, and the same command makes it again"
            ) from error


def work_on(shape: ShapeFile, settings: ShapeSettings, path: str) -> None:
    """Write the record of one shape; an unusable one gets a record with the reason alone.

    Raises:
        SourceError: the reason is none of this shape alone. MemoryError: it does not suffice.
    """
    try:
        record = prepare_shape(shape, settings)
    except SourceError:
        raise
    except DataError as error:
        record = {"reason": np.array(" ".join(str(error).split()))}
    write_record(path, record)


def write_record(path: str, record: Record) -> None:
    # not flushed: zip files have checksums, so a record shows by itself whether it is whole
    with atomic_path(path, flush=False) as temporary:
        np.savez(temporary, **record)


def make_records(
    shapes: list[ShapeFile], records: Records, run: Callable[[list[ShapeFile], Crew], None]
) -> None:
    """Write the records that are not there yet.

    A shape that kills every worker that tries it, alone too, is given up: ``records`` says so of it
    from then on. It gets no file, so that the next command tries it again.

    Args:
        run: where; :func:`run_here`, or :func:`data.prepare.cluster.run_cluster`.

    Raises:
        RunError: many shapes in a row are given up. SourceError: see :func:`work_on`. And what
            ``run`` raises.
    """
    left = [shape for shape in shapes if not records.has(shape)]
    with Progress(len(shapes), "shapes", done=len(shapes) - len(left)) as progress:
        if left:
            run(left, Crew(records, progress))


@dataclass
class Crew:
    """Hands shapes to an executor, whichever it is, and counts those that come back."""

    records: Records
    progress: Progress
    in_a_row: int = 0  # given up since a shape was prepared

    def hand_out(
        self, executor: Executor, shapes: list[ShapeFile], ahead: int, killed: tuple = ()
    ) -> list[ShapeFile]:
        """Have records made until all are there or the executor breaks.

        Args:
            ahead: how many shapes are in hand at once.
            killed: what a future raises whose shape alone the executor has given up.

        Returns:
            The shapes to try again: those in hand when the executor broke, and those for which
            memory did not suffice.
        """
        finished: SimpleQueue[Future[None]] = SimpleQueue()
        in_hand: dict[Future[None], ShapeFile] = {}
        fallen: list[ShapeFile] = []
        waiting = iter(shapes)

        def submit(count: int) -> None:
            for shape in islice(waiting, count):
                path = self.records.path(shape)
                future = executor.submit(work_on, shape, self.records.settings, path)
                in_hand[future] = shape
                future.add_done_callback(finished.put)

        try:
            submit(ahead)
            while in_hand:
                future = finished.get()
                try:
                    future.result()
                except killed:
                    self.give_up(in_hand[future])
                except MemoryError:
                    fallen.append(in_hand[future])
                else:
                    self.count()
                del in_hand[future]
                submit(1)
        except BrokenProcessPool:
            for shape in in_hand.values():
                if self.records.has(shape):
                    self.count()
                else:
                    fallen.append(shape)
        return fallen

    def count(self) -> None:
        self.in_a_row = 0
        self.progress.update()

    def give_up(self, shape: ShapeFile) -> None:
        """Leave a shape out; RunError where so many in a row are no accident."""
        self.records.given_up.add(shape.id)
        self.in_a_row += 1
        self.progress.update()
        if self.in_a_row >= MANY:
            raise RunError(
                f"{MANY} shapes in a row killed the processes that prepared them, the last is "
                f"{shape.place}: is there enough memory? The same command goes on from here and "
                "tries them again; move their files away if they are to blame"
            )

    def left_of(self, shapes: list[ShapeFile]) -> list[ShapeFile]:
        known = self.records
        return [s for s in shapes if s.id not in known.given_up and not known.has(s)]


def run_here(shapes: list[ShapeFile], crew: Crew, workers: int) -> None:
    """By so many processes of this machine; 1 works in this process."""
    if workers > 1:
        _run_pools(shapes, crew, min(workers, len(shapes)))
        return
    for shape in shapes:
        try:
            work_on(shape, crew.records.settings, crew.records.path(shape))
        except MemoryError:
            crew.give_up(shape)
        else:
            crew.count()


def _run_pools(shapes: list[ShapeFile], crew: Crew, workers: int) -> None:
    """By processes of this machine. One that is killed breaks its whole pool: the shapes in hand
    are then tried one at a time, which tells who is to blame."""

    def try_with(workers: int, shapes: list[ShapeFile], ahead: int) -> list[ShapeFile]:
        with _pool(workers) as pool:
            return crew.hand_out(pool, shapes, ahead)

    while shapes:
        suspects = try_with(workers, shapes, AHEAD * workers)
        deaths: Counter[str] = Counter()
        while suspects:
            for shape in try_with(1, suspects, 1):
                deaths[shape.id] += 1
                if deaths[shape.id] == TRIES:
                    crew.give_up(shape)
            suspects = crew.left_of(suspects)
        shapes = crew.left_of(shapes)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes with one numeric thread each: there is one process per core already."""
    before = os.environ.get(THREADS)
    os.environ.setdefault(THREADS, "1")  # they start as the first shapes are handed out
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _follow_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ[THREADS]


def _follow_parent() -> None:
    """Make a worker end with its parent even when that is killed, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
