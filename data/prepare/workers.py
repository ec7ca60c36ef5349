"""The records of many shapes, made by the processes of this machine or of a Dask cluster.

The record of a shape, an ``.npz`` file, lies in the work folder of the set from the moment its
shape is prepared until the set is packed. It depends on the shape's file and the settings alone and
is written atomically: neither interruptions, nor workers that die, nor the number of processes or
machines change a byte of the set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import zipfile
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from data.prepare.shape import Record, ShapeSettings, prepare_shape
from data.sources.cloud_files import SourceError
from data.sources.folders import ShapeFile
from utils.errors import ConfigError, DataError, RunError
from utils.files import atomic_path
from utils.progress import Progress

RECORD = 5  # raise it whenever a record holds other things: those of an older program are no use
THREADS = "OMP_NUM_THREADS"
AHEAD = 4  # shapes handed out per worker: none waits for the next, and few lie in memory
FEW = 3  # deaths in a row, before any shape is prepared, that are not the shapes' fault
PATIENCE = 10.0  # seconds to find the scheduler of a cluster
DIED = "its worker process died at every try, killed or for want of memory"


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
        SourceError: the reason is none of this shape alone.
    """
    try:
        record = prepare_shape(shape, settings)
    except SourceError:
        raise
    except DataError as error:
        record = _reason(str(error))
    except MemoryError:
        record = _reason("it takes more memory than there is")
    write_record(path, record)


def _reason(text: str) -> Record:
    return {"reason": np.array(" ".join(text.split()))}


def write_record(path: str, record: Record) -> None:
    # not flushed: zip files have checksums, so a record shows by itself whether it is whole
    with atomic_path(path, flush=False) as temporary:
        np.savez(temporary, **record)


def make_records(
    shapes: list[ShapeFile], records: Records, workers: int, cluster: str = ""
) -> None:
    """Write the records that are not there yet.

    Args:
        workers: processes of this machine; 1 works in this process.
        cluster: address of a Dask scheduler whose workers do it instead.

    A shape whose worker dies is tried once more, by itself (by Dask, three times more), and then
    gets a record with that reason.

    Raises:
        RunError: no worker lives long enough. SourceError: see :func:`work_on`.
        ConfigError: no such cluster, or one that cannot do it.
    """
    left = [shape for shape in shapes if not records.has(shape)]
    with Progress(len(shapes), "shapes", done=len(shapes) - len(left)) as progress:
        crew = Crew(records, progress)
        if not left:
            return
        if cluster:
            _run_cluster(left, crew, cluster)
        elif workers == 1:
            for shape in left:
                work_on(shape, records.settings, records.path(shape))
                progress.update()
        else:
            _run_pools(left, crew, min(workers, len(left)))


@dataclass
class Crew:
    """Hands shapes to an executor, whichever it is, and counts those that come back."""

    records: Records
    progress: Progress
    prepared: int = 0

    def hand_out(
        self, executor: Executor, shapes: list[ShapeFile], ahead: int, killed: tuple = ()
    ) -> list[ShapeFile]:
        """Have records made until all are there or the executor breaks.

        Args:
            ahead: how many shapes are in hand at once.
            killed: what a future raises whose shape alone the executor has given up.

        Returns:
            The shapes in hand when the executor broke, none if it did not.
        """
        finished: SimpleQueue[Future[None]] = SimpleQueue()
        in_hand: dict[Future[None], ShapeFile] = {}
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
                else:
                    self.prepared += 1
                    self.progress.update()
                del in_hand[future]
                submit(1)
        except BrokenProcessPool:
            return [shape for shape in in_hand.values() if not self.records.has(shape)]
        return []

    def give_up(self, shape: ShapeFile) -> None:
        write_record(self.records.path(shape), _reason(DIED))
        self.progress.update()


def _run_pools(shapes: list[ShapeFile], crew: Crew, workers: int) -> None:
    """By processes of this machine. One that is killed breaks its whole pool: the shapes in hand
    are then tried once more, one at a time, which tells who is to blame."""

    def try_with(workers: int, shapes: list[ShapeFile], ahead: int) -> list[ShapeFile]:
        with _pool(workers) as pool:
            return crew.hand_out(pool, shapes, ahead)

    while shapes:
        suspects = try_with(workers, shapes, AHEAD * workers)
        deaths = 0
        while suspects:
            for shape in try_with(1, suspects, 1):
                deaths += 1
                if deaths >= FEW and not crew.prepared:
                    raise RunError(
                        f"{deaths + 1} worker processes died and none prepared a shape, perhaps "
                        "for want of memory; the same command goes on from here"
                    )
                crew.give_up(shape)
            suspects = [shape for shape in suspects if not crew.records.has(shape)]
        shapes = [shape for shape in shapes if not crew.records.has(shape)]


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


def _run_cluster(shapes: list[ShapeFile], crew: Crew, address: str) -> None:
    """By the workers of a Dask cluster, which makes up for those that die."""
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise ConfigError(
            "--cluster needs the package distributed: pip install distributed"
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said below
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--cluster {address}: no Dask scheduler answers there ({error}); start one with: "
            "python -m dask scheduler"
        ) from error
    with client:
        count = _check_workers(client, address, crew.records.folder)
        executor = client.get_executor(pure=False)
        shapes = [replace(shape, path=shape.path.absolute()) for shape in shapes]
        try:
            crew.hand_out(executor, shapes, AHEAD * count, (KilledWorker,))
        except CancelledError:
            raise RunError(
                f"the Dask scheduler {address} has gone; the same command goes on from here"
            ) from None
        finally:
            executor.shutdown(wait=False)


def _check_workers(client, address: str, folder: Path) -> int:
    """How many workers a cluster has.

    Raises:
        ConfigError: none, one with several threads, without this code or without this disk.
    """
    start = f"start them in the project's folder: python -m dask worker {address} --nthreads 1"
    threads = client.nthreads()
    if not threads:
        raise ConfigError(f"--cluster {address} has no workers; {start}")
    for worker, count in threads.items():
        if count != 1:
            raise ConfigError(f"worker {worker} has {count} threads, expected 1; {start}")
    folder.mkdir(parents=True, exist_ok=True)
    answers = client.run(look_around, str(folder), on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, Exception):
            raise ConfigError(f"worker {worker} cannot run this code ({answer}); {start}")
        if answer != (RECORD, True):
            what = f"does not see {folder}: workers share a disk"
            if answer[0] != RECORD:
                what = "runs another version of this code"
            raise ConfigError(f"worker {worker} {what}; {start}")
    return len(threads)


def look_around(folder: str) -> tuple[int, bool]:
    """What a worker of a cluster has: the version of its records, and whether it sees a folder."""
    return RECORD, os.path.isdir(folder)
