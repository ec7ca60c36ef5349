"""Students by name: a point encoder and a classification head, or a part-segmentation network.

To add an encoder, write one file in ``models/encoders`` with a module that has
``feature_channels`` (C), ``global_channels`` (D) and ``forward(points (B, N, 3)) ->
EncoderOutput``, and one line in :data:`ENCODERS`. Nothing else asks which network it has. Where its
output has ``extra_losses``, it names them in an attribute of that name.

Its form for part segmentation, if it has one, is a module of the same file with the same two
attributes and ``forward(points (B, N, 3), category (B,)) -> StudentOutput`` with logits
(B, N, parts). It is built with the number of parts of all categories together and that of the
categories. ``init`` copies the layers that ``encoder_layers`` names, those that make the
embeddings; ``category_layers`` are the ones among them whose size follows from the number of
categories. What it shares with the encoder of classification, if anything, it names ``encoder``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, get_args

from torch import Tensor, nn

from models.encoders.curvenet import CurveNet
from models.encoders.curvenet_seg import CurveNetSegmenter
from models.encoders.dgcnn import DGCNN, DGCNNSegmenter
from models.encoders.pointnet import PointNet, PointNetSegmenter
from models.encoders.pointnet2 import (
    pointnet2_msg,
    pointnet2_msg_segmenter,
    pointnet2_ssg,
    pointnet2_ssg_segmenter,
)
from models.heads import Hidden, PointMCDHead, PublishedHead
from models.layers.pointops import Sampling
from models.outputs import StudentOutput
from utils.config import did_you_mean
from utils.errors import ConfigError
from utils.weights import load_matching


class Entry(NamedTuple):
    """How to build an encoder and its form for part segmentation (None: not offered), the hidden
    layers of its paper's own classifier (none: not offered), and the head that ``default`` stands
    for."""

    build: Callable[[], nn.Module]
    segmenter: Callable[[int, int], nn.Module] | None
    published: tuple[Hidden, ...] = ()
    default_head: str = "pointmcd"


# Heads by default: where PointMCD released a student, that student's; elsewhere the paper's own.
# paper: DGCNN's classifier reads max || mean, 2048 channels.
# here: its hidden layers read the maximum, 1024 channels, which is what PointMCD's DGCNN pools.
ENCODERS = {
    "pointnet": Entry(PointNet, PointNetSegmenter, (Hidden(512), Hidden(256, 0.3))),
    "pointnet2_ssg": Entry(
        pointnet2_ssg, pointnet2_ssg_segmenter, (Hidden(512, 0.4), Hidden(256, 0.4)), "published"
    ),
    "pointnet2_msg": Entry(
        pointnet2_msg, pointnet2_msg_segmenter, (Hidden(512, 0.4), Hidden(256, 0.5)), "published"
    ),
    "dgcnn": Entry(
        DGCNN, DGCNNSegmenter, (Hidden(512, 0.5, False, 0.2), Hidden(256, 0.5, True, 0.2))
    ),
    "curvenet": Entry(CurveNet, CurveNetSegmenter, (Hidden(512, 0.5, False),), "published"),
    # as its authors' code computes it, for their checkpoints
    "curvenet_released": Entry(
        partial(CurveNet, released_momentum=True), None, (Hidden(512, 0.5, False),), "published"
    ),
}
SEGMENTERS = {name: entry.segmenter for name, entry in ENCODERS.items() if entry.segmenter}
HEADS = ("default", "pointmcd", "published")
TASKS = ("classification", "segmentation")


class Student(nn.Module):
    """A network for one of the tasks.

    ``task`` is one of :data:`TASKS`; ``feature_channels`` (C) and ``global_channels`` (D) are those
    of the network, ``extra_losses`` the names of the terms that it computes by itself. ``heads``
    holds what the loss terms trained beside it, by their names, once it was loaded from a
    checkpoint; ``num_classes`` (K) is known once :func:`build_student` made it.
    """

    task: str
    fields = ("points",)  # of a batch, its input
    num_classes: int | None = None

    def __init__(self, network: nn.Module):
        super().__init__()
        self.feature_channels = network.feature_channels
        self.global_channels = network.global_channels
        self.extra_losses: tuple[str, ...] = getattr(network, "extra_losses", ())
        self.heads = nn.ModuleDict()

    def infer(self, points: Tensor, category: Tensor | None) -> StudentOutput:
        """Everything but the view codes."""
        raise NotImplementedError

    def forward_batch(self, batch: dict[str, Tensor]) -> StudentOutput:
        """The output for the fields of a batch; its class is the category, which segmentation is
        told."""
        return self(batch["points"], batch.get("label"))

    def forward(
        self, points: Tensor, category: Tensor | None = None, visibility: Tensor | None = None
    ) -> StudentOutput:
        """
        Args:
            points: (B, N, 3) float32, in the unit sphere, z up.
            category: (B,) int64, the class of each shape, which part segmentation is told and
                classification is not.
            visibility: (B, N, V) bool, or 0 and 1 of any type as others store it; with it the
                output has ``view_codes`` (B, V, D) and ``seen``.

        Raises:
            ConfigError: a visibility for a student without the head that makes view codes.
        """
        output = self.infer(points, category)
        if visibility is not None:
            if "alignment" not in self.heads:
                raise ConfigError(
                    "this student has no projection to view codes: it was not trained with "
                    "terms.alignment, or was not loaded from a checkpoint"
                )
            output.view_codes, output.seen = self.heads["alignment"].view_codes(output, visibility)
        return output


class Classifier(Student):
    """An encoder and a head."""

    task = "classification"

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__(encoder)
        self.encoder = encoder
        self.head = head

    def infer(self, points: Tensor, category: Tensor | None) -> StudentOutput:
        output = self.encoder(points)
        return StudentOutput(
            logits=self.head(output.global_feature),
            global_feature=output.global_feature,
            point_features=output.point_features,
            point_index=output.point_index,
            extra_losses=output.extra_losses,
        )


class Segmenter(Student):
    """A part-segmentation network."""

    task = "segmentation"

    def __init__(self, network: nn.Module):
        super().__init__(network)
        self.network = network

    def infer(self, points: Tensor, category: Tensor | None) -> StudentOutput:
        return self.network(points, category)


def build_student(
    encoder: str,
    num_classes: int,
    head: str = "default",
    task: str = "classification",
    num_categories: int = 0,
    sampling: Sampling = "farthest",
) -> Student:
    """A freshly initialised student.

    Args:
        encoder: a name of :data:`ENCODERS`. head: a name of :data:`HEADS`.
        num_classes: in segmentation, the number of parts of all categories together.
        task: a name of :data:`TASKS`. num_categories: for segmentation.
        sampling: see :data:`models.layers.pointops.Sampling`; ``stored`` is for clouds in
            farthest-point order, as prepared sets hold them, and for networks that reduce their
            points.

    Raises:
        ConfigError: an unknown name, or a head or a sampling that the network does not have.
    """
    _check_name("task", task, TASKS)
    if task == "segmentation":
        _check_name("encoder", encoder, SEGMENTERS)
        if head not in ("default", "published"):
            raise ConfigError(f"{encoder} has one form for segmentation: use student.head=default")
        student = Segmenter(SEGMENTERS[encoder](num_classes, num_categories))
    else:
        _check_name("encoder", encoder, ENCODERS)
        _check_name("head", head, HEADS)
        student = _build_classifier(encoder, num_classes, head)
    if sampling != "farthest":
        _set_sampling(student, encoder, sampling)
    student.num_classes = num_classes
    return student


def _set_sampling(student: Student, encoder: str, sampling: Sampling) -> None:
    _check_name("sampling", sampling, get_args(Sampling))
    samplers = [module for module in student.modules() if hasattr(module, "sampling")]
    if not samplers:
        raise ConfigError(f"{encoder} keeps all points: leave student.sampling={sampling} out")
    for module in samplers:
        module.sampling = sampling


def _check_name(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"unknown {kind} {name!r}, expected one of {list(known)}{did_you_mean(name, known)}"
        )


def _build_classifier(encoder: str, num_classes: int, head: str) -> Classifier:
    entry = ENCODERS[encoder]
    network = entry.build()
    chosen = entry.default_head if head == "default" else head
    if chosen == "pointmcd":
        return Classifier(network, PointMCDHead(network.global_channels, num_classes))
    if not entry.published:
        raise ConfigError(f"{encoder} has no published head: use student.head=pointmcd")
    return Classifier(network, PublishedHead(network.global_channels, num_classes, entry.published))


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
