"""A contest: one piece of work, done by the published form and by ours."""

from __future__ import annotations

import contextlib
import gc
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from utils.errors import RunError, UserError

Form = Callable[[], Any]
Result = TypeVar("Result")
WORDS = 200  # characters of an error in a table


@dataclass(frozen=True)
class Contest:
    """Forms of the same work, ready to run on their inputs.

    ``forms``: ``published`` and ``ours``; where there is nothing to compare with, ``ours`` alone.
    ``copy``, if there, moves as many bytes as the work has to, read and written: its floor.
    ``size``: the sizes in words. ``check`` raises RunError unless the forms agree.
    ``shapes``: how many shapes one pass treats. ``bytes_moved``: by ``copy``. ``recorded``: the
    first pass records a CUDA graph, and those after it allocate nothing.
    """

    size: str
    forms: dict[str, Form]
    check: Callable[[], None]
    shapes: int
    bytes_moved: int = 0
    recorded: bool = False


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the defaults are those of the table in the README."""

    projection: tuple[int, int, int, int] = (32, 1024, 1024, 12)  # B, points, channels, views
    visible: float = 0.38  # share of the points that a view sees
    clouds: tuple[int, int, int] = (16, 1024, 512)  # B, points, centres
    students: tuple[int, int] = (16, 1024)  # B, points, 512 at least
    batches: tuple[int, ...] = (16,)  # B of training steps, the first one in float32 too
    files: int = 256  # shapes of one epoch of loading


FULL = Sizes()
QUICK = replace(
    FULL,
    projection=(8, 1024, 256, 12),
    clouds=(4, 1024, 512),
    students=(2, 512),
    batches=(2,),
    files=32,
)
# loads and compiles what a pass needs, before its memory is measured
TINY = replace(QUICK, projection=(2, 32, 16, 12), clouds=(2, 64, 32), files=4)


def expect(passed: bool, form: str, difference: str) -> None:
    """Raise RunError naming what differs, unless ``passed``."""
    if not passed:
        raise RunError(
            f"{form}: ours and the published form differ, {difference}; no time is reported. "
            "POINT_KERNELS=plain shows whether a kernel is to blame"
        )


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions of float32 on CUDA without TensorFloat-32, for comparisons."""
    products = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def attempt(work: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """What ``work`` gives and None, or None and in one line why it failed.

    What it held is free again then. A defect, an error that is not one of ours, also leaves its
    traceback on standard error.
    """
    try:
        return work(), None
    except Exception as error:
        words = in_words(error)
        if not isinstance(error, UserError):
            traceback.print_exception(error)
    gc.collect()
    with contextlib.suppress(RuntimeError):  # a GPU that has failed for good
        torch.cuda.empty_cache()
    return None, words


def in_words(error: Exception) -> str:
    """An error in one line of at most ``WORDS`` characters."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return textwrap.shorten(f"{kind}{error}", WORDS, placeholder=" ...")
