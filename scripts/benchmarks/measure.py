"""How a contest is timed, its memory measured, and what is said about the place.

All forms run in turns in one process, under the settings that it has; on a CPU the published form
takes its turns once more in a process that has none of our settings.
"""

from __future__ import annotations

import ctypes
import datetime
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from models.kernels.choice import kernels_name
from scripts.benchmarks import loading, points, projection, students
from scripts.benchmarks.contest import TINY, Contest, Form, Sizes
from utils.device import describe
from utils.run import source_commit

GROUPS: dict[str, Callable[[Sizes, torch.device], dict[str, Callable[[], Contest]]]] = {
    "projection": projection.contests,
    "points": points.contests,
    "students": students.contests,
    "loading": loading.contests,
}
Apart = Callable[[int], float]  # number of passes -> seconds of one
SHORTEST = 0.02  # seconds: shorter passes are timed several at a time
FRESH = ["scripts.benchmarks.measure"]  # what a fresh process has imported
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds(form: Form, device: torch.device, passes: int = 1) -> float:
    """Wall time of one pass, the mean of ``passes``."""
    _synchronise(device)
    start = time.perf_counter()
    for _ in range(passes):
        form()
    _synchronise(device)
    return (time.perf_counter() - start) / passes


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_contest(
    contest: Contest, rounds: int, device: torch.device, apart: Apart | None = None
) -> dict[str, dict[str, float]]:
    """First call of every form, the check, then ``rounds`` rounds in turns.

    ``apart`` times passes of the published form elsewhere, which is the form ``published_bare``.

    Returns:
        Of each form ``milliseconds``, the median, and ``first_milliseconds``, with what is loaded
        and compiled then.

    Raises:
        RunError: the forms do not agree; nothing is timed then.
    """
    first, passes = {}, {}
    for name, form in contest.forms.items():
        first[name] = seconds(form, device)
        passes[name] = max(1, round(SHORTEST / max(seconds(form, device), 1e-6)))
    contest.check()
    timers: dict[str, Apart] = {
        name: partial(seconds, form, device) for name, form in contest.forms.items()
    }
    if apart is not None:
        first["published_bare"] = apart(1)
        passes["published_bare"] = passes["published"]
        timers["published_bare"] = apart
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer(passes[name]))
    return {
        name: {"milliseconds": 1e3 * median(times[name]), "first_milliseconds": 1e3 * first[name]}
        for name in timers
    }


@contextmanager
def published_apart(group: str, name: str, sizes: Sizes) -> Iterator[Apart]:
    """Times the published form on a CPU in a process with PyTorch's and glibc's own settings."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FRESH)
    arguments = (group, name, sizes, torch.get_num_threads())
    with context.Pool(1, _keep_contest, arguments) as pool:
        yield lambda passes: pool.apply(_seconds_of_kept, (passes,))


_kept: list[Contest] = []  # of a process of its own


def _keep_contest(group: str, name: str, sizes: Sizes, threads: int) -> None:
    torch.set_num_threads(threads)
    _kept.append(GROUPS[group](sizes, torch.device("cpu"))[name]())


def _seconds_of_kept(passes: int) -> float:
    return seconds(_kept[0].forms["published"], torch.device("cpu"), passes)


def memory(group: str, name: str, form: str, sizes: Sizes, device: torch.device) -> float:
    """MiB that one pass needs at its peak beside inputs and weights: outputs, gradients, the rest.

    The allocator's peak on CUDA; on a CPU the growth of the resident size in a process of its own.
    """
    if device.type == "cuda":
        return _allocator_peak(GROUPS[group](sizes, device)[name]().forms[form], device)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FRESH)
    with context.Pool(1, maxtasksperchild=1) as pool:
        arguments = (group, name, form, sizes, torch.get_num_threads())
        return pool.apply(_resident_growth, arguments)


def _allocator_peak(form: Form, device: torch.device) -> float:
    form()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    form()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _resident_growth(group: str, name: str, form: str, sizes: Sizes, threads: int) -> float:
    device = torch.device("cpu")
    torch.set_num_threads(threads)
    # what the first call of an operation loads or compiles is not its need
    GROUPS[group](TINY, device)[name]().forms[form]()
    contest = GROUPS[group](sizes, device)[name]()
    before = _begin_peak()
    kept: Any = contest.forms[form]()
    grown = (_status("VmHWM") - before) / 2**10
    del kept
    return max(grown, 0.0)


def _begin_peak() -> int:
    """Give freed memory back, begin a new peak here; the resident size in KiB."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    CLEAR.write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    """A size in KiB that Linux tells of this process."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1])


def can_measure_memory(device: torch.device) -> bool:
    """On a CPU, where Linux tells the peak of a process and lets it begin anew."""
    return device.type == "cuda" or (STATUS.is_file() and CLEAR.exists())


def machine(device: torch.device) -> dict[str, Any]:
    """What the table says about where it was made."""
    words = f"{platform.machine()}, {os.cpu_count()} cores"
    return {
        "machine": words,
        "device": describe(device),
        "torch": torch.__version__.split("+")[0],
        "kernels": kernels_name(device),
        "date": datetime.date.today().isoformat(),
        "commit": source_commit(),
    }
