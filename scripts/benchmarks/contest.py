"""A contest: one piece of work, done by the published form and by ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from utils.errors import RunError

Form = Callable[[], Any]


@dataclass(frozen=True)
class Contest:
    """Forms of the same work, ready to run on their inputs.

    ``forms``: ``published`` and ``ours``; where there is nothing to compare with, ``ours`` alone.
    ``copy``, if there, moves as many bytes as the work has to, read and written: its floor.
    ``size``: the sizes in words. ``check`` raises RunError unless the forms agree.
    ``shapes``: how many shapes one pass treats. ``bytes_moved``: by ``copy``.
    """

    size: str
    forms: dict[str, Form]
    check: Callable[[], None]
    shapes: int
    bytes_moved: int = 0


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the defaults are those of the table in the README."""

    projection: tuple[int, int, int, int] = (32, 1024, 1024, 12)  # B, points, channels, views
    visible: float = 0.38  # share of the points that a view sees
    clouds: tuple[int, int, int] = (16, 1024, 512)  # B, points, centres
    students: tuple[int, int] = (16, 1024)  # B, points, 512 at least
    files: int = 256  # shapes of one epoch of loading


FULL = Sizes()
QUICK = replace(
    FULL, projection=(8, 1024, 256, 12), clouds=(4, 1024, 512), students=(2, 512), files=32
)
# loads and compiles what a pass needs, before its memory is measured
TINY = Sizes(projection=(2, 32, 16, 12), clouds=(2, 64, 32), students=(2, 512), files=4)


def expect(passed: bool, form: str, difference: str) -> None:
    """Raise RunError naming what differs, unless ``passed``."""
    if not passed:
        raise RunError(
            f"{form}: ours and the published form differ, {difference}; no time is reported. "
            "POINT_KERNELS=plain shows whether a kernel is to blame"
        )
