"""From a checkpoint to its network: ``from models import load_model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.objective import build_heads
from utils.checkpoint import read_model
from utils.errors import ConfigError, DataError
from utils.weights import load_matching


def build_model(content: dict[str, Any], path: str | Path) -> nn.Module:
    """The network of a checkpoint, in evaluation mode, on the CPU.

    Args:
        content: of :func:`utils.checkpoint.read_model`. path: its file, for messages.

    Raises:
        DataError: the weights do not fit the network that the checkpoint describes.
    """
    # Imported here: the backbones of teachers take seconds, and who asks for the one role does not
    # wait for the other.
    if content["role"] == "student":
        from models.students import build_student as build
    elif content["build"].get("task") == "generation":
        from models.generators import build_generator as build
    else:
        from models.images.teachers import build_teacher as build
    try:
        network = build(**content["build"])
    except (RuntimeError, TypeError, ConfigError) as error:
        raise DataError(f"the description in {path} fits no network here: {error}") from error
    load_matching(network, content["model"], path, "its own description")
    build_heads(content["heads"], network, path)
    return network.eval()


def load_model(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The model of a checkpoint, ready for inference: evaluation mode, no gradients, on ``device``.

    A student takes clouds (B, N, 3) in the unit sphere, z up, and for part segmentation the class
    of each as (B,) int64; ``network.classes`` holds the class names in the order of the logits,
    ``network.heads`` what loss terms trained beside it. One that was distilled makes the codes of
    views too, ``network(points, visibility=...).view_codes``. A teacher takes views (B, V, 3, H, W)
    in [0, 1], a generator of clouds the codes of shapes (B, D).

    Raises:
        DataError: no such file, or one that does not fit.
    """
    content = read_model(path)
    network = build_model(content, path).to(device).requires_grad_(False)
    network.classes = content["classes"]
    return network
