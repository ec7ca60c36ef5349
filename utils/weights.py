"""Weights that come from elsewhere: read a file safely, and load only what fits a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils import checkpoint
from utils.errors import DataError, UserError

WRAPPERS = ("model_state_dict", "state_dict", "model_state", "net", "model")
SHOWN = 3  # names of each kind in an error

# NumPy numbers, which some training scripts store beside the weights, under their old names too.
_scalar = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a file that others wrote: bare or in one of ``WRAPPERS``, without the
    prefix ``module.`` of DataParallel. Only tensors, plain values and NumPy numbers are unpickled.
    A file that ends in ``.safetensors`` is one of that library.

    Raises:
        DataError: no such file, one that holds other objects, or no state dict of another project.
    """
    if not Path(path).is_file():
        raise DataError(f"no weights at {path}; give the path of an existing file")
    if Path(path).suffix == ".safetensors":
        return _read_safetensors(path)
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        content = checkpoint.read(path)
    found = content if isinstance(content, dict) else {}
    if found.get("format") == checkpoint.FORMAT:
        raise DataError(
            f"{path} is a checkpoint of this project already, expected weights of another one: use "
            "it as it is (init=, test.py)"
        )
    state = next((found[name] for name in WRAPPERS if name in found), found)
    tensors = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not tensors or not state:
        raise DataError(
            f"{path} holds no state dict: expected names with tensors, bare or in "
            f"{' or '.join(map(repr, WRAPPERS))}, found {_outline(content)}"
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _read_safetensors(path: str | Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file  # comes with timm

        return load_file(path)
    except Exception as error:
        raise DataError(f"{path} cannot be read as weights of safetensors ({error})") from error


def _outline(content: Any) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    items = [f"{name!r} ({type(value).__name__})" for name, value in content.items()]
    return ", ".join(items[:6]) + (f" and {len(items) - 6} more" if len(items) > 6 else "") or "{}"


def load_matching(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    target: str,
    wanted: Callable[[str], bool] = lambda name: True,
    error: type[UserError] = DataError,
) -> None:
    """Load the ``wanted`` names of ``state`` into ``module``, if all fit and none is missing.

    Only the counters of batch normalisation, which old files lack, may be missing.

    Args:
        source: where the state comes from. target: what it must fit. Both for the message.

    Raises:
        error: names that are missing or unexpected, or tensors of another shape; ``module`` is as
            it was.
    """
    if not isinstance(state, Mapping):
        raise error(f"{source} holds no weights by name, found {type(state).__name__}")
    own = {name: value for name, value in module.state_dict().items() if wanted(name)}
    given = {name: value for name, value in state.items() if wanted(str(name))}
    faults = {
        "missing": [n for n in own.keys() - given.keys() if not n.endswith("num_batches_tracked")],
        "unexpected": given.keys() - own.keys(),
        "of another shape": [
            n
            for n in own.keys() & given
            if not isinstance(given[n], Tensor) or own[n].shape != given[n].shape
        ],
    }
    found = []
    for fault, names in faults.items():
        if names:
            first = ", ".join(sorted(map(str, names))[:SHOWN]) + ", ..." * (len(names) > SHOWN)
            found.append(f"{len(names)} {fault} ({first})")
    if found:
        raise error(
            f"{source}: its weights do not fit {target}: {', '.join(found)}; expected those of the "
            "same network"
        )
    module.load_state_dict(given, strict=False)
