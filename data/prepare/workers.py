"""The records of many shapes, by many processes.

The records of a set lie in its work folder until they are assembled, each in a file of its own that
is written atomically. An interrupted preparation therefore loses the shapes in flight and no more,
and since a record depends on its file and the settings alone, neither interruptions nor the number
of processes or machines change a byte of the result.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from tqdm import tqdm

from data.prepare.cache import Records, write_record
from data.prepare.shape import ShapeSettings, prepare_shape
from data.sources.cloud_files import SourceError
from data.sources.folders import ShapeFile
from utils.errors import DataError, RunError

THREADS = "OMP_NUM_THREADS"
AHEAD = 4  # shapes handed out for every worker: none waits for the next, and few lie in memory


def work_on(shape: ShapeFile, settings: ShapeSettings, path: Path) -> None:
    """Write the record of one shape; an unusable one gets a record with the reason alone.

    Raises:
        SourceError: the reason is none of this shape alone.
    """
    try:
        record = prepare_shape(shape, settings)
    except SourceError:
        raise
    except DataError as error:
        record = {"reason": np.array(" ".join(str(error).split()))}
    write_record(path, record)


def run_work(
    shapes: list[ShapeFile], records: Records, workers: int, show_progress: bool = True
) -> None:
    """Write the records that are not there yet, by ``workers`` processes (1 works in this one).

    Raises:
        RunError: a worker process died. SourceError: see :func:`work_on`.
    """
    left = [shape for shape in shapes if records.find(shape) is None]
    done = len(shapes) - len(left)
    with tqdm(
        total=len(shapes), initial=done, desc="shapes", unit="shape", disable=not show_progress
    ) as bar:
        if workers == 1:
            for shape in left:
                work_on(shape, records.settings, records.path(shape))
                bar.update()
        elif left:
            _run_pool(left, records, min(workers, len(left)), bar)


def _run_pool(shapes: list[ShapeFile], records: Records, workers: int, bar: tqdm) -> None:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _follow_parent)
    finished: SimpleQueue[Future[None]] = SimpleQueue()

    def submit(shape: ShapeFile) -> None:
        future = pool.submit(work_on, shape, records.settings, records.path(shape))
        future.add_done_callback(finished.put)

    waiting = iter(shapes)
    try:
        with _one_thread_each():  # the processes start as the first shapes are handed out
            for shape in islice(waiting, AHEAD * workers):
                submit(shape)
        for _ in shapes:
            finished.get().result()
            bar.update()
            for shape in islice(waiting, 1):
                submit(shape)
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died, perhaps for want of memory; the same command goes on from "
            "here, --workers with a smaller number needs less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started meanwhile keep their numeric libraries to one thread: there is one
    process a core already. This process keeps its own, for what it does afterwards."""
    before = os.environ.get(THREADS)
    os.environ.setdefault(THREADS, "1")
    try:
        yield
    finally:
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
