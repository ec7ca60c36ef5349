"""The records of many shapes, by many processes.

The records of a set lie in its work folder until they are assembled, each in a file of its own that
is written atomically. An interrupted preparation therefore loses the shapes in flight and no more,
and since a record depends on its file and the settings alone, neither interruptions nor the number
of processes change a byte of the result.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cloud_sources import SourceError
from data.records import ShapeSettings, prepare_shape
from data.sources import ShapeFile
from data.storage import VERSION
from utils.errors import DataError, RunError
from utils.files import atomic_path

RECORD = 3  # raise it whenever a record holds other things: those of an older program are no use


def record_path(folder: Path, shape: ShapeFile, settings: ShapeSettings) -> Path:
    """Where the record of a shape lies: another file when its file or any setting is another."""
    identity = [VERSION, settings.renderer, RECORD, shape.fingerprint(), asdict(settings)]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:32]}.npz"


def work_on(shape: ShapeFile, settings: ShapeSettings, folder: Path) -> None:
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
    with atomic_path(record_path(folder, shape, settings)) as temporary:
        np.savez(temporary, **record)


def run_work(shapes: list[ShapeFile], settings: ShapeSettings, folder: Path, workers: int) -> None:
    """Write the records that are not there yet, by ``workers`` processes (1 works in this one).

    Raises:
        RunError: a worker process died. SourceError: see :func:`work_on`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = [shape for shape in shapes if not record_path(folder, shape, settings).is_file()]
    bar = tqdm(total=len(shapes), initial=len(shapes) - len(left), desc="shapes", unit="shape")
    with bar:
        if workers == 1:
            for shape in left:
                work_on(shape, settings, folder)
                bar.update()
        elif left:
            _run_pool(left, settings, folder, min(workers, len(left)), bar)


def _run_pool(
    shapes: list[ShapeFile], settings: ShapeSettings, folder: Path, workers: int, bar: tqdm
) -> None:
    # One process a core is enough: keep the numeric libraries of the workers from starting more.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _follow_parent)
    try:
        for future in as_completed([pool.submit(work_on, s, settings, folder) for s in shapes]):
            future.result()
            bar.update()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died, perhaps for want of memory; the same command goes on from "
            "here, --workers with a smaller number needs less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Make a worker end with its parent even when that is killed, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
