"""What a student says of one cloud that belongs to no prepared set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from utils.config import did_you_mean
from utils.distributed import is_main
from utils.errors import ConfigError, DataError
from utils.pictures import cloud_parts_figure, save_figure


@torch.no_grad()
def class_lines(student: nn.Module, points: np.ndarray, classes: list[str], top: int) -> list[str]:
    """The ``top`` classes of a cloud (N, 3) float32, the likeliest first."""
    logits = student(_batch(student, points)).logits[0]
    scores = logits.float().softmax(dim=0).cpu().numpy()
    return [
        f"{100 * scores[place]:6.2f} %  {classes[place]}" for place in np.argsort(-scores)[:top]
    ]


@torch.no_grad()
def part_lines(
    student: nn.Module,
    points: np.ndarray,
    classes: list[str],
    part_names: dict[str, list[str]],
    category: str | None,
    picture: Path,
) -> list[str]:
    """The share of each part of a cloud (N, 3) float32, which is drawn to ``picture``.

    Args:
        classes: in the order of their labels. part_names: class -> its parts.
        category: the class of the cloud.

    Raises:
        ConfigError: no category, or an unknown one. DataError: no names of parts.
    """
    if not part_names:
        raise DataError("the checkpoint does not say which parts its categories have")
    if category not in classes:
        raise ConfigError(
            f"part segmentation is told the class of a cloud: "
            f"{'no --category' if category is None else f'found --category {category}'}, "
            f"expected one of {', '.join(classes)}{did_you_mean(str(category), classes)}"
        )
    label, names = classes.index(category), part_names[category]
    begin = sum(len(part_names.get(name, ())) for name in classes[:label])
    batch = _batch(student, points)
    logits = student(batch, torch.tensor([label], device=batch.device)).logits[0]
    found = logits[:, begin : begin + len(names)].argmax(dim=1).cpu().numpy()
    if is_main():
        save_figure(cloud_parts_figure(points, found, names), picture)
    shares = np.bincount(found, minlength=len(names)) / len(found)
    lines = [f"{100 * share:6.2f} %  {name}" for share, name in zip(shares, names, strict=True)]
    return [*lines, f"picture: {picture}"]


def _batch(student: nn.Module, points: np.ndarray) -> torch.Tensor:
    device = next(student.parameters()).device
    return torch.from_numpy(points).unsqueeze(0).to(device)
