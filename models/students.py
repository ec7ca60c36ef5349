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

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, get_args

from torch import Tensor, nn

from models.encoders.curvenet import CurveNet
from models.encoders.curvenet_seg import CurveNetSegmenter
from models.encoders.dgcnn import DGCNN, DGCNNSegmenter, PublishedDGCNN
from models.encoders.pointmlp import pointmlp, pointmlp_elite
from models.encoders.pointnet import PointNet, PointNetSegmenter
from models.encoders.pointnet2 import (
    pointnet2_msg,
    pointnet2_msg_segmenter,
    pointnet2_ssg,
    pointnet2_ssg_segmenter,
)
from models.encoders.pointnext import PointNeXt
from models.heads import Head, Hidden, PointCMTHead, PointMCDHead, PublishedHead
from models.layers.pointops import Sampling
from models.outputs import StudentOutput
from utils.config import did_you_mean
from utils.errors import ConfigError


class Entry(NamedTuple):
    """How to build an encoder and its form for part segmentation (None: not offered), the hidden
    layers of its paper's own classifier (none: not offered), and the head that ``default`` stands
    for."""

    build: Callable[..., nn.Module]
    segmenter: Callable[[int, int], nn.Module] | None
    published: tuple[Hidden, ...] = ()
    default_head: str = "pointmcd"


# Heads by default: where PointMCD released a student, that student's; elsewhere the paper's own.
# paper: DGCNN's classifier reads max || mean, 2048 channels.
# here: its hidden layers read the maximum, 1024 channels, which is what PointMCD's DGCNN pools;
# dgcnn_published has both.
DGCNN_HIDDEN = Hidden(512, 0.5, False, 0.2), Hidden(256, 0.5, True, 0.2)
POINTMLP_HIDDEN = Hidden(512, 0.5), Hidden(256, 0.5)
POINTNEXT_HIDDEN = Hidden(512, 0.5, False), Hidden(256, 0.5, False)
ENCODERS = {
    "pointnet": Entry(PointNet, PointNetSegmenter, (Hidden(512), Hidden(256, 0.3))),
    "pointnet2_ssg": Entry(
        pointnet2_ssg, pointnet2_ssg_segmenter, (Hidden(512, 0.4), Hidden(256, 0.4)), "published"
    ),
    "pointnet2_msg": Entry(
        pointnet2_msg, pointnet2_msg_segmenter, (Hidden(512, 0.4), Hidden(256, 0.5)), "published"
    ),
    "dgcnn": Entry(DGCNN, DGCNNSegmenter, DGCNN_HIDDEN),
    "dgcnn_published": Entry(PublishedDGCNN, None, DGCNN_HIDDEN, "published"),
    "curvenet": Entry(CurveNet, CurveNetSegmenter, (Hidden(512, 0.5, False),), "published"),
    # as its authors' code computes it, for their checkpoints
    "curvenet_released": Entry(
        partial(CurveNet, released_momentum=True), None, (Hidden(512, 0.5, False),), "published"
    ),
    "pointmlp": Entry(pointmlp, None, POINTMLP_HIDDEN, "published"),
    "pointmlp_elite": Entry(pointmlp_elite, None, POINTMLP_HIDDEN, "published"),
    "pointnext_s": Entry(PointNeXt, None, POINTNEXT_HIDDEN, "published"),
    "pointnext_s64": Entry(partial(PointNeXt, width=64), None, POINTNEXT_HIDDEN, "published"),
    "pointnext_s_height": Entry(partial(PointNeXt, inputs=4), None, POINTNEXT_HIDDEN, "published"),
}
SEGMENTERS = {name: entry.segmenter for name, entry in ENCODERS.items() if entry.segmenter}
HEADS = ("default", "pointmcd", "pointcmt", "published")
CODE_SIZE = 512
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
    """An encoder and a head; one of :class:`models.heads.Head` makes a code on the way."""

    task = "classification"

    def __init__(self, encoder: nn.Module, head: Head | nn.Module):
        super().__init__(encoder)
        self.encoder = encoder
        self.head = head
        self.code_channels = head.code_channels if isinstance(head, Head) else None
        self.code_describes = isinstance(head, Head) and head.code_describes
        if self.code_describes:
            self.global_channels = self.code_channels

    def infer(self, points: Tensor, category: Tensor | None) -> StudentOutput:
        output = self.encoder(points)
        feature, code = output.global_feature, None
        if self.code_channels is None:
            logits = self.head(feature)
        else:
            code = self.head.code(feature)
            logits = self.classify(code)
        return StudentOutput(
            logits=logits,
            global_feature=code if self.code_describes else feature,
            point_features=output.point_features,
            point_index=output.point_index,
            extra_losses=output.extra_losses,
            code=code,
        )

    def classify(self, codes: Tensor) -> Tensor:
        """Logits (B, K) of codes (B, W), its own or others'."""
        return self.head.classifier(codes)


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
    code_size: int = CODE_SIZE,
    options: Mapping[str, Any] | None = None,
) -> Student:
    """A freshly initialised student.

    Args:
        encoder: a name of :data:`ENCODERS`. head: a name of :data:`HEADS`.
        num_classes: in segmentation, the number of parts of all categories together.
        task: a name of :data:`TASKS`. num_categories: for segmentation.
        sampling: see :data:`models.layers.pointops.Sampling`; ``stored`` is for clouds in
            farthest-point order, as prepared sets hold them, and for networks that reduce their
            points.
        code_size: width of the layer before the last, of the heads ``pointmcd`` and ``pointcmt``.
        options: more of the encoder of a classifier than its name says, as arguments of its entry:
            what converted weights were trained with.

    Raises:
        ConfigError: an unknown name, or a head, sampling or code that the network does not have.
    """
    _check_name("task", task, TASKS)
    if task == "segmentation":
        _check_name("encoder", encoder, SEGMENTERS)
        if head not in ("default", "published"):
            raise ConfigError(f"{encoder} has one form for segmentation: use student.head=default")
        _refuse_code_size(code_size, "segmentation")
        student = Segmenter(SEGMENTERS[encoder](num_classes, num_categories))
    else:
        _check_name("encoder", encoder, ENCODERS)
        _check_name("head", head, HEADS)
        student = _build_classifier(encoder, num_classes, head, code_size, options or {})
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


def _refuse_code_size(code_size: int, what: str) -> None:
    if code_size != CODE_SIZE:
        raise ConfigError(
            f"student.code_size={code_size} is of the heads pointmcd and pointcmt, found {what}: "
            "leave it out or give student.head=pointcmt"
        )


def _check_name(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"unknown {kind} {name!r}, expected one of {list(known)}{did_you_mean(name, known)}"
        )


def _build_classifier(
    encoder: str, num_classes: int, head: str, code_size: int, options: Mapping[str, Any]
) -> Classifier:
    entry = ENCODERS[encoder]
    network = entry.build(**options)
    chosen = entry.default_head if head == "default" else head
    if made := {"pointmcd": PointMCDHead, "pointcmt": PointCMTHead}.get(chosen):
        return Classifier(network, made(network.global_channels, num_classes, code_size))
    _refuse_code_size(code_size, f"the published head of {encoder}")
    if not entry.published:
        raise ConfigError(f"{encoder} has no published head: use student.head=pointmcd")
    return Classifier(network, PublishedHead(network.global_channels, num_classes, entry.published))
