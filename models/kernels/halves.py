"""Reading and writing bfloat16 inside loops that numba compiles; numba does not know the type.

Arrays of bfloat16 come as their bits, uint16. ``wide(x)`` is an element as float32, and
``narrow(value, like)`` what has to be stored for ``value`` in an array with elements like ``like``;
of float32 both leave everything as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor


def elements(tensor: Tensor) -> np.ndarray:
    """A contiguous tensor as an array for the loops, sharing its memory; its type is one of
    :data:`models.kernels.choice.NUMBA_TYPES`."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def wide(x):
    raise NotImplementedError("only inside compiled loops")


def narrow(value, like):
    raise NotImplementedError("only inside compiled loops")


@overload(wide)
def _wide(x):
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@overload(narrow)
def _narrow(value, like):
    if isinstance(like, types.Float):
        return lambda value, like: value

    def nearest(value, like):  # of two as near ones the even one; what is no number stays none
        bits = np.float32(value).view(np.uint32)
        odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
        return np.uint16(rounded) if value == value else np.uint16(0x7FC0)

    return nearest
