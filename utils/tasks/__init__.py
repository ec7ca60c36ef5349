"""What a network learns to do, in one place: what is read and computed of a batch, and how that is
measured, reported and drawn, while it trains and when it is tested.

A task works on any network with ``fields`` (of a batch, its input), ``task`` (the name here) and
``forward_batch(batch)``: students and teachers differ where their outputs do.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from utils.errors import ConfigError, DataError
from utils.tasks.base import Arrays, Task
from utils.tasks.clouds import Generation
from utils.tasks.images import Reconstruction
from utils.tasks.parts import PixelParts, PointParts
from utils.tasks.shapes import Classification, Features

__all__ = [
    "SUFFIXES",
    "Arrays",
    "Task",
    "output_sizes",
    "require_labels",
    "task_of",
    "tested_task",
]

SUFFIXES = {
    "classification": "",
    "segmentation": "_partseg",
    "autoencoder": "_autoencoder",
    "generation": "_generator",
}
WITHOUT_LABELS = {"autoencoder": Reconstruction, "generation": Generation}


def task_of(network: nn.Module, split: Any, labelled: bool = True) -> Task:
    """The task of a network on a prepared split, by what it learnt.

    Args:
        labelled: whether it learns from labels; otherwise its classes mean nothing.
    """
    if network.task in WITHOUT_LABELS:
        kind = WITHOUT_LABELS[network.task]
    elif not labelled:
        kind = Features
    elif network.task == "classification":
        kind = Classification
    else:
        kind = PixelParts if "views" in network.fields else PointParts
    return kind(network, split.class_names, split.part_ranges)


def output_sizes(task: str, split: Any) -> dict[str, int]:
    """Arguments of a network's builder: ``num_classes``, in segmentation of all parts, and
    ``num_categories``, of which only segmentation is told.

    Raises:
        DataError: parts are to be learnt and the set has none.
    """
    if task != "segmentation":
        classes = 0 if task == "autoencoder" else len(split.class_names)
        return {"num_classes": classes, "num_categories": 0}
    if split.num_parts == 0:
        raise DataError(f"{split.path} has no part labels, which task=segmentation learns")
    return {"num_classes": split.num_parts, "num_categories": len(split.class_names)}


def tested_task(content: dict[str, Any], network: nn.Module, split: Any, path: str) -> Task:
    """The task of a checkpoint's network on a split to test it on.

    Raises:
        ConfigError: a network without labels, whose classes mean nothing.
        DataError: the split has other parts or classes than the network.
    """
    if network.task not in WITHOUT_LABELS:
        require_labels(content, path)
        if split.class_names != content["classes"]:
            raise DataError(
                f"{path} knows {len(content['classes'])} classes ({content['classes'][0]}, ...), "
                f"{split.name} has {len(split.class_names)} ({split.class_names[0]}, ...): they "
                "must be the same classes in the same order"
            )
    parts = content["build"].get("num_classes")
    if network.task == "segmentation" and split.num_parts != parts:
        raise DataError(f"{path} knows {parts} parts, {split.name} has {split.num_parts}")
    return task_of(network, split)


def require_labels(content: dict[str, Any], path: str) -> None:
    """Refuse a network that never saw a label.

    Raises:
        ConfigError: no term that it was trained with reads labels.
    """
    if not content["training"]["labelled"]:
        raise ConfigError(
            f"{path} was trained without labels, its classes mean nothing: probe its features with "
            "test.py --probe svm"
        )
