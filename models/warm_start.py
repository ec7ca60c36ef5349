"""A student whose encoder is that of another student at first."""

from __future__ import annotations

from typing import Any

from models.students import Student
from utils.errors import ConfigError
from utils.weights import load_matching


def initialise_encoder(
    student: Student, build: dict[str, Any], content: dict[str, Any], path: str
) -> None:
    """Start a student's encoder from that of another student, whatever the heads of the two.

    In segmentation the encoder is what makes the embeddings; where the two know different numbers
    of categories, the layers that read the category stay as they are. The weights must fit, the
    name need not: ``curvenet`` may start from ``curvenet_released``, and reads them its own way.

    Args:
        build: arguments of :func:`build_student` that made ``student``.
        content: the other one's checkpoint as read. path: its file, for messages.

    Raises:
        ConfigError: an encoder with other weights, as most have for the other task.
    """
    other = {"task": "classification", "num_categories": 0} | content["build"]
    # the encoder that two tasks share is inside the network of segmentation
    own_place, other_place = (
        "network.encoder." if task == "segmentation" else "encoder."
        for task in (student.task, other["task"])
    )
    state = {
        own_place + k.removeprefix(other_place) if k.startswith(other_place) else k: v
        for k, v in content["model"].items()
    }
    layers = ("encoder.",)
    if student.task == "segmentation":
        network = student.network
        same = other["num_categories"] == build["num_categories"]
        left_out = () if same else network.category_layers
        layers = tuple(f"network.{n}." for n in network.encoder_layers if n not in left_out)

    def wanted(name: str) -> bool:
        return name.startswith(layers)

    if not any(map(wanted, state)):
        raise ConfigError(
            f"init={path} has no encoder to start from: only PointNet shares its encoder "
            "between classification and part segmentation"
        )
    load_matching(student, state, f"init={path}", "the encoder here", wanted, ConfigError)
