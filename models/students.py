"""Students by name: a point encoder and a classification head.

To add an encoder, write one file with a module that has ``feature_channels`` (C),
``global_channels`` (D) and ``forward(points (B, N, 3)) -> EncoderOutput``, and one line in
:data:`ENCODERS`. Nothing else asks which encoder it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from models.curvenet import CurveNet
from models.dgcnn import DGCNN
from models.heads import Hidden, PointMCDHead, PublishedHead
from models.outputs import StudentOutput
from models.pointnet import PointNet
from models.pointnet2 import pointnet2_msg, pointnet2_ssg
from utils.config import did_you_mean
from utils.errors import ConfigError


class Entry(NamedTuple):
    """How to build an encoder, the hidden layers of its paper's own classifier (none: not
    offered), and the head that ``default`` stands for."""

    build: Callable[[], nn.Module]
    published: tuple[Hidden, ...] = ()
    default_head: str = "pointmcd"


# Heads by default: where PointMCD released a student, that student's; elsewhere the paper's own.
# paper: DGCNN's classifier reads max || mean, 2048 channels.
# here: its hidden layers read the maximum, 1024 channels, which is what PointMCD's DGCNN pools.
ENCODERS = {
    "pointnet": Entry(PointNet, (Hidden(512), Hidden(256, 0.3))),
    "pointnet2_ssg": Entry(pointnet2_ssg, (Hidden(512, 0.4), Hidden(256, 0.4)), "published"),
    "pointnet2_msg": Entry(pointnet2_msg, (Hidden(512, 0.4), Hidden(256, 0.5)), "published"),
    "dgcnn": Entry(DGCNN, (Hidden(512, 0.5, False, 0.2), Hidden(256, 0.5, True, 0.2))),
    "curvenet": Entry(CurveNet, (Hidden(512, 0.5, False),), "published"),
}
HEADS = ("default", "pointmcd", "published")


class Student(nn.Module):
    """An encoder and a head: all that inference needs."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, points: Tensor) -> StudentOutput:
        """``points`` (B, N, 3) float32, in the unit sphere, z up."""
        output = self.encoder(points)
        return StudentOutput(
            logits=self.head(output.global_feature),
            global_feature=output.global_feature,
            point_features=output.point_features,
            point_index=output.point_index,
            extra_losses=output.extra_losses,
        )


def build_student(encoder: str, num_classes: int, head: str = "default") -> Student:
    """A freshly initialised student.

    Args:
        encoder: a name of :data:`ENCODERS`. head: a name of :data:`HEADS`.

    Raises:
        ConfigError: an unknown name, or a head that the encoder does not have.
    """
    for kind, name, known in (("encoder", encoder, ENCODERS), ("head", head, HEADS)):
        if name not in known:
            raise ConfigError(
                f"unknown {kind} {name!r}, expected one of {list(known)}{did_you_mean(name, known)}"
            )
    entry = ENCODERS[encoder]
    network = entry.build()
    chosen = entry.default_head if head == "default" else head
    if chosen == "pointmcd":
        return Student(network, PointMCDHead(network.global_channels, num_classes))
    if not entry.published:
        raise ConfigError(f"{encoder} has no published head: use student.head=pointmcd")
    return Student(network, PublishedHead(network.global_channels, num_classes, entry.published))
