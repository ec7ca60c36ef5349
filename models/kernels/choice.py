"""Which form of the kernels serves a device.

``POINT_KERNELS=plain`` in the environment forces tensor code everywhere. A form whose compiler
cannot be imported is replaced by tensor code; none is imported before it is needed.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Literal

import torch

from models.kernels import plain
from utils.errors import ConfigError

Name = Literal["numba", "triton", "plain"]

MODULES: dict[Name, str] = {"numba": "cpu", "triton": "cuda", "plain": "plain"}
USUAL: dict[str, Name] = {"cpu": "numba", "cuda": "triton"}
# What the loops of numba read and write. It is here for callers that must not import numba, which
# takes a second.
NUMBA_TYPES = (torch.float32, torch.bfloat16)


def kernels_for(device: torch.device) -> ModuleType:
    """The module of this package whose functions serve tensors on ``device``.

    ``POINT_KERNELS=triton`` makes Triton serve CPU tensors too, which works only where
    ``TRITON_INTERPRET=1`` is set: for tests without a GPU.

    Raises:
        ConfigError: for any other value of ``POINT_KERNELS``.
    """
    return _chosen(device.type, os.environ.get("POINT_KERNELS", ""))[1]


def kernel(name: str, device: torch.device) -> Callable:
    """The function ``name`` for tensors on ``device``: tensor code, where the form has none."""
    return getattr(kernels_for(device), name, None) or getattr(plain, name)


def kernels_name(device: torch.device) -> Name:
    """What :func:`kernels_for` chooses: the compiler's name, or ``plain`` for tensor code."""
    return _chosen(device.type, os.environ.get("POINT_KERNELS", ""))[0]


@cache
def _chosen(device: str, asked: str) -> tuple[Name, ModuleType]:
    if asked not in ("", "plain", "triton"):
        raise ConfigError(
            f"found POINT_KERNELS={asked} in the environment, expected plain or triton: "
            "unset it to let the device decide"
        )
    name = asked or USUAL.get(device, "plain")
    try:
        return name, importlib.import_module(f"{__package__}.{MODULES[name]}")
    except ImportError as error:
        warnings.warn(
            f"the point kernels for {device} run as plain tensor code, which is slower: {error}",
            stacklevel=4,
        )
        return _chosen(device, "plain")
