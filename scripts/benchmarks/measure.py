"""How a contest is timed, its memory measured, and what is said about the place.

All forms run in turns in one process, under the settings that it has; on a CPU the published form
takes its turns once more in a process that has none of our settings.
"""

from __future__ import annotations

import ctypes
import datetime
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import forkserver
from pathlib import Path
from statistics import median
from typing import Any

import torch

from models.kernels.choice import kernels_name
from scripts.benchmarks import assignment, loading, points, projection, students
from scripts.benchmarks.contest import TINY, Contest, Form, Sizes, attempt, full_precision
from utils import startup
from utils.device import describe
from utils.run import source_commit

GROUPS: dict[str, Callable[[Sizes, torch.device], dict[str, Callable[[], Contest]]]] = {
    "projection": projection.contests,
    "points": points.contests,
    "assignment": assignment.contests,
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
) -> dict[str, dict[str, Any]]:
    """First call of every form, the check in full precision, then ``rounds`` rounds in turns.

    ``apart`` times passes of the published form elsewhere, which is the form ``published_bare``.

    Returns:
        Of each form ``milliseconds``, the median, and ``first_milliseconds``, with what is loaded
        and compiled then. If ``apart`` fails, its form has ``error`` instead.

    Raises:
        RunError: the forms do not agree; nothing is timed then.
    """
    first, passes = {}, {}
    for name, form in contest.forms.items():
        first[name] = seconds(form, device)
        passes[name] = max(1, round(SHORTEST / max(seconds(form, device), 1e-6)))
    with full_precision():
        contest.check()
    timers: dict[str, Apart] = {
        name: partial(seconds, form, device) for name, form in contest.forms.items()
    }
    problems: list[str] = []
    if apart is not None:
        timers["published_bare"] = _until_it_fails(apart, problems)
        first["published_bare"] = timers["published_bare"](1)
        passes["published_bare"] = passes["published"]
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer(passes[name]))
    figures: dict[str, dict[str, Any]] = {
        name: {"milliseconds": 1e3 * median(times[name]), "first_milliseconds": 1e3 * first[name]}
        for name in timers
    }
    if problems:
        figures["published_bare"] = {"error": problems[0]}
    return figures


def _until_it_fails(apart: Apart, problems: list[str]) -> Apart:
    """``apart``, which from its first failure on, in words in ``problems``, gives NaN."""

    def timer(passes: int) -> float:
        if problems:
            return math.nan
        taken, problem = attempt(partial(apart, passes))
        if taken is None:
            problems.append(str(problem))
            return math.nan
        return taken

    return timer


def fresh_process() -> ProcessPoolExecutor:
    """A process of its own; if it is killed, what it does raises BrokenProcessPool."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FRESH)
    with startup.environment_as_found():
        forkserver.ensure_running()
    return ProcessPoolExecutor(1, context)


@contextmanager
def published_apart(group: str, name: str, sizes: Sizes) -> Iterator[Apart]:
    """Times the published form on a CPU in a process with PyTorch's and glibc's own settings."""
    kept = partial(_seconds_of_kept, group, name, sizes, torch.get_num_threads())
    with fresh_process() as process:
        yield lambda passes: process.submit(kept, passes).result()


@cache
def _kept_contest(group: str, name: str, sizes: Sizes, threads: int) -> Contest:
    torch.set_num_threads(threads)
    return GROUPS[group](sizes, torch.device("cpu"))[name]()


def _seconds_of_kept(group: str, name: str, sizes: Sizes, threads: int, passes: int) -> float:
    contest = _kept_contest(group, name, sizes, threads)
    return seconds(contest.forms["published"], torch.device("cpu"), passes)


def memory(group: str, name: str, form: str, sizes: Sizes, device: torch.device) -> float:
    """MiB that one pass needs at its peak beside inputs and weights: outputs, gradients, the rest.

    The allocator's peak on CUDA; on a CPU the growth of the resident size in a process of its own.
    """
    if device.type == "cuda":
        return _allocator_peak(GROUPS[group](sizes, device)[name](), form, device)
    with fresh_process() as process:
        arguments = (group, name, form, sizes, torch.get_num_threads())
        return process.submit(_resident_growth, *arguments).result()


def _allocator_peak(contest: Contest, form: str, device: torch.device) -> float:
    if not contest.recorded:
        contest.forms[form]()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    contest.forms[form]()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _resident_growth(group: str, name: str, form: str, sizes: Sizes, threads: int) -> float:
    device = torch.device("cpu")
    torch.set_num_threads(threads)
    # what the first call of an operation loads or compiles is not its need
    small = GROUPS[group](TINY, device).items()
    build = next(build for title, build in small if work_of(title) == work_of(name))
    build().forms[form]()
    contest = GROUPS[group](sizes, device)[name]()
    before = _begin_peak()
    kept: Any = contest.forms[form]()
    grown = (_status("VmHWM") - before) / 2**10
    del kept
    return max(grown, 0.0)


def work_of(name: str) -> str:
    """The name of a contest without its batch, which may be another in other sizes."""
    return name.partition(", B=")[0]


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
