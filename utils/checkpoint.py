"""Checkpoints: tensors and plain values only, self-describing, whole or not there.

A model checkpoint holds everything needed to build and use the network:

    format    "multiview-distillation checkpoint"
    version   2; files of version 1 are read as if they were (utils/upgrade.py)
    role      "student" or "teacher"
    build     arguments of the role's builder (encoder, head, number of classes, ...)
    classes   class names, in the order of the logits
    model     state dict
    heads     what loss terms trained beside it, by their names: settings, fields, state dict
    config    the resolved configuration of the run
    training  label of the method, epochs, commit, wall seconds, data hash, ... (primitives)
"""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import DataError
from utils.files import atomic_path
from utils.upgrade import upgrade

FORMAT = "multiview-distillation checkpoint"
VERSION = 2
FIELDS = ("version", "role", "build", "classes", "model", "heads", "config", "training")

ROLES = ("student", "teacher")


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write ``content`` atomically; equal content gives equal bytes."""
    buffer = io.BytesIO()  # a file's name would become part of the archive
    torch.save(_with_single_strings(content), buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _with_single_strings(value: Any) -> Any:
    """The same with one object for equal strings: a pickle tells one that occurs twice from two
    that are equal, which depends on where they come from."""
    if type(value) is str:
        return sys.intern(value)
    if type(value) is list:
        return [_with_single_strings(item) for item in value]
    if type(value) is dict:
        return {_with_single_strings(k): _with_single_strings(v) for k, v in value.items()}
    return value


def read(path: str | Path) -> dict[str, Any]:
    """Read a file of :func:`save` with ``weights_only=True``.

    Raises:
        DataError: no such file, or not a file that PyTorch can read safely.
    """
    if not Path(path).is_file():
        raise DataError(f"no checkpoint at {path}; train one, or give the path of an existing one")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if "weights_only" in str(error):  # PyTorch's advice there is to run the file's own code
            first_line = "it holds Python objects, or is no file of PyTorch"
        raise DataError(
            f"{path} cannot be read as a checkpoint of tensors and plain values "
            f"({first_line}); it is damaged or something else"
        ) from error
    return content


def save_model(
    path: str | Path,
    role: str,
    network: nn.Module,
    build: dict[str, Any],
    classes: list[str],
    config: dict[str, Any],
    training: dict[str, Any],
    heads: dict[str, dict[str, Any]],
) -> None:
    """Write a model checkpoint; see the head of this file for its fields."""
    state = {n: v for n, v in network.state_dict().items() if not n.startswith("heads.")}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "role": role,
        "build": build,
        "classes": classes,
        "model": {name: value.detach().cpu() for name, value in state.items()},
        "heads": heads,
        "config": config,
        "training": training,
    }
    save(path, content)


def read_model(path: str | Path, role: str | None = None) -> dict[str, Any]:
    """Read and check a model checkpoint, of whatever version up to this one.

    Raises:
        DataError: unreadable, not a model checkpoint, of another role or a newer version.
    """
    content = read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(
            f"{path} is not a model checkpoint of this project; train_teacher.py and "
            "train_student.py write them under ckpt/"
        )
    if content.get("version") == 1:
        content = upgrade(content, path)
    absent = [key for key in FIELDS if key not in content]
    if absent:
        raise DataError(f"{path} lacks {', '.join(absent)}; it is damaged or was edited")
    if content["version"] > VERSION:
        raise DataError(
            f"{path} has version {content['version']}, this code reads up to {VERSION}: update it"
        )
    if content["role"] not in ROLES or (role is not None and content["role"] != role):
        raise DataError(
            f"{path} is the checkpoint of a {content['role']}, expected a {role or 'known role'}"
        )
    return content


def fingerprint(state: dict[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over names, shapes and bytes of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
