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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_spent: dict[str, float] = {}  # seconds by what they went into
_begun = _last = time.perf_counter()


def mark(what: str) -> None:
    """The time since the last mark, or since this module was imported, went into ``what``."""
    global _last
    now = time.perf_counter()
    _spent[what] = _spent.get(what, 0.0) + now - _last
    _last = now


def summary() -> str | None:
    """``4.2 s: imports 2.3, data 0.4, ...`` at the first call, and None at all others."""
    if not _spent:
        return None
    parts = ", ".join(f"{what} {seconds:.1f}" for what, seconds in _spent.items())
    _spent.clear()
    return f"{_last - _begun:.1f} s: {parts}"
