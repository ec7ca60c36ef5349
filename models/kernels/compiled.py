"""How the loops are compiled: by numba, when first called, and kept on disk for later processes."""

from __future__ import annotations

from collections.abc import Callable

from numba import njit


def compiled(function: Callable) -> Callable:
    """Without Python's lock, and without fused or reordered arithmetic.

    The result is kept beside the source or, where that cannot be written, in the user's cache.
    """
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # neither can be written: every process compiles for itself
        return njit(nogil=True, error_model="numpy")(function)


def inlined(function: Callable) -> Callable:
    """For what loops of several files share: copied into each of them, where it is called.

    A call would cost as much as the loop over a short row. The results that are kept on disk follow
    the files of the loops, not this function's: who changes it removes them.
    """
    return njit(inline="always")(function)
