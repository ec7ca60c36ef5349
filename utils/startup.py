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

_spent: dict[str, float] | None = {}  # seconds by what they went into; None: told already
_begun = _last = time.perf_counter()


@contextmanager
def environment_as_found() -> Iterator[None]:
    """For processes that are to start without the settings of ours."""
    if _found is None:
        del os.environ[POLICY]
    yield
    os.environ.setdefault(POLICY, "PASSIVE")


def mark(what: str) -> None:
    """The time since the last mark, or since this module was imported, went into ``what``."""
    global _last
    if _spent is None:
        return
    now = time.perf_counter()
    _spent[what] = _spent.get(what, 0.0) + now - _last
    _last = now


def told() -> bool:
    """Whether :func:`tell` was called: a process starts once."""
    return _spent is None


def tell() -> str:
    """``4.2 s: imports 2.3, data 0.4, ...``; nothing is marked after it."""
    global _spent
    parts = ", ".join(f"{what} {seconds:.1f}" for what, seconds in _spent.items())
    _spent = None
    return f"{_last - _begun:.1f} s: {parts}"
