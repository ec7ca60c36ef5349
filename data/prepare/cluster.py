"""Shapes prepared by the workers of a Dask cluster, as ``data.prepare --cluster ADDRESS`` wants."""

from __future__ import annotations

import logging
import os
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.prepare.workers import AHEAD, RECORD, Crew
from data.sources.folders import ShapeFile
from utils.errors import ConfigError, RunError

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 10.0  # seconds to find the scheduler


def run_cluster(shapes: list[ShapeFile], crew: Crew, address: str) -> None:
    """By the workers of a Dask cluster, which makes up for those that die."""
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise ConfigError(
            "--cluster needs the package distributed: pip install distributed"
        ) from None
    for name in ("distributed", "distributed.client"):  # what matters is said below
        logging.getLogger(name).setLevel(logging.CRITICAL)
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
            for shape in crew.hand_out(executor, shapes, AHEAD * count, (KilledWorker,)):
                crew.give_up(shape)
        except CancelledError:
            raise RunError(
                f"the Dask scheduler {address} has gone; the same command goes on from here"
            ) from None
        finally:
            executor.shutdown(wait=False)


def _check_workers(client: Client, address: str, folder: Path) -> int:
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
