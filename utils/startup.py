"""What comes before everything else: every program imports this module first.

It sets what libraries read when they are loaded, and starts the clock that says what the start of a
training consists of. It imports nothing that takes time.

OpenMP's threads, which do PyTorch's arithmetic on a CPU, spin while they wait for each other.
Beside other work they take away the cores that the others wait for; waiting passively, they do not.
``OMP_WAIT_POLICY=ACTIVE`` in the environment has them spin.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLICY = "OMP_WAIT_POLICY"
_found = os.environ.get(POLICY)
os.environ.setdefault(POLICY, "PASSIVE")

_spent: dict[str, float] = {}  # seconds by what they went into
_told = _logged = False


def _age() -> float:
    """Seconds since this process started; 0 where the system does not tell."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # since the system started
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


_last = time.perf_counter() - _age()


@contextmanager
def environment_as_found() -> Iterator[None]:
    """For processes that are to start without the settings of ours."""
    if _found is None:
        os.environ.pop(POLICY, None)
    try:
        yield
    finally:
        os.environ.setdefault(POLICY, "PASSIVE")


def begin_anew() -> None:
    """For a program that starts in a process where others ran before it."""
    global _last, _told, _logged
    _spent.clear()
    _last, _told, _logged = time.perf_counter(), False, False


def mark(what: str) -> None:
    """The time since the last mark, or since this process started, went into ``what``."""
    global _last
    if _told:
        return
    now = time.perf_counter()
    _spent[what] = _spent.get(what, 0.0) + now - _last
    _last = now


def told() -> bool:
    """Whether :func:`tell` was called: a process starts once."""
    return _told


def tell() -> str:
    """``4.2 s: imports 2.3, data 0.4, ...``; nothing is marked after it."""
    global _told
    _told = True
    parts = ", ".join(f"{what} {seconds:.1f}" for what, seconds in _spent.items())
    return f"{sum(_spent.values()):.1f} s: {parts}"


def for_the_log() -> dict[str, dict[str, float]]:
    """``{"startup": seconds by what they went into}`` once after :func:`tell`, else nothing."""
    global _logged
    if _logged or not _told:
        return {}
    _logged = True
    return {"startup": {what: round(seconds, 2) for what, seconds in _spent.items()}}
