"""The multi-view image teachers of PointMCD (Zhang et al., TMM 2023), and that of PointCMT.

Each view goes through one shared image backbone to a 512-d view code; the channel-wise maximum over
the views says what all of them show. The teachers differ in what they learn it from: the class of
the shape, the parts seen in every pixel, or the image itself, which needs no labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.images.attention_vgg import AttentionVGG, descriptor
from models.images.backbones import TORCHVISION, ImageBackbone
from models.images.colours import unit_images
from models.images.decoders import ImageDecoder, PartDecoder
from models.images.timm_backbone import PREFIX, TimmBackbone
from models.layers.mlp import check_category
from models.outputs import TeacherOutput
from utils.config import did_you_mean
from utils.errors import ConfigError
from utils.weights import load_matching

CODE_SIZE = 512
ATTENTION_VGG = "vgg11_bn_attention"
BACKBONES = (*TORCHVISION, ATTENTION_VGG)
Backbone = ImageBackbone | AttentionVGG | TimmBackbone


def build_backbone(name: str, weights: str = "none") -> Backbone:
    """Images (R, 3, H, W) -> (R, ``.channels``); ``timm/NAME`` is a network of timm.

    Raises:
        ConfigError: unknown name. DataError: the weights cannot be had or do not fit.
    """
    if name == ATTENTION_VGG:
        return AttentionVGG(weights)
    if name.startswith(PREFIX):
        return TimmBackbone(name, weights)
    if name not in TORCHVISION:
        raise ConfigError(
            f"unknown backbone {name!r}, expected {PREFIX}NAME or one of {list(BACKBONES)}"
            f"{did_you_mean(name, BACKBONES)}"
        )
    return ImageBackbone(name, weights)


def code_layer(inputs: int) -> nn.Sequential:
    """Linear without bias, batch norm, ReLU: the layer that makes a code."""
    return nn.Sequential(
        nn.Linear(inputs, CODE_SIZE, bias=False), nn.BatchNorm1d(CODE_SIZE), nn.ReLU()
    )


class ViewTeacher(nn.Module):
    """What all teachers share: a backbone and what it expects of colours.

    ``task``: what it learns, as in :func:`build_teacher`. ``heads``: of the loss terms that trained
    it, as :class:`models.students.Student` has them.

    Args:
        backbone: of :func:`build_backbone`.
        normalise: ``imagenet`` subtracts the mean and divides by the deviation that the released
            weights of the backbone expect; ``none`` only scales to [0, 1], as the published code
            does.
    """

    task: str
    fields = ("views",)  # of a batch, its input
    extra_losses: tuple[str, ...] = ()

    def __init__(self, backbone: Backbone, normalise: str):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict()
        mean, std = backbone.colours if normalise == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def images(self, views: Tensor) -> Tensor:
        """(B, V, 1 or 3, H, W) -> (B * V, 3, H, W); grey broadcasts to three channels."""
        return (unit_images(views.flatten(0, 1)) - self.mean) / self.std

    def forward_batch(self, batch: dict[str, Tensor]) -> TeacherOutput:
        """The output for the fields of a batch."""
        return self(batch["views"], batch.get("label"))


class MultiViewTeacher(ViewTeacher):
    """Views of a shape -> view codes, shape code and logits: the classification teacher.

    A linear head makes the view codes, one more layer on their maximum the code of the shape. One
    bias-free classifier serves the shape code and every view code.
    """

    task = "classification"

    def __init__(self, backbone: Backbone, normalise: str, num_classes: int):
        super().__init__(backbone, normalise)
        self.view_head = code_layer(backbone.channels)
        self.shape_head = code_layer(CODE_SIZE)
        self.classifier = nn.Linear(CODE_SIZE, num_classes, bias=False)

    def forward(self, views: Tensor, category: Tensor | None = None) -> TeacherOutput:
        """``views``: (B, V, 1 or 3, H, W), uint8 or float in [0, 1]. The class is what this teacher
        finds: ``category`` is taken, so that all teachers are called alike, and not read."""
        view_codes = self.view_head(self.backbone(self.images(views)))
        view_codes = view_codes.view(*views.shape[:2], CODE_SIZE)
        code = self.shape_head(view_codes.amax(dim=1))  # (B, 512)
        return TeacherOutput(view_codes, code, self.classifier(view_codes), self.classifier(code))


class MVCNN(ViewTeacher):
    """The classification teacher of PointCMT (Yan et al., NeurIPS 2022), after MVCNN (Su et al.,
    ICCV 2015): the features of the backbone are the view codes, their maximum over the views the
    code of the shape, which one classifier with a bias reads; it reads view codes as well.
    """

    task = "classification"

    def __init__(self, backbone: Backbone, normalise: str, num_classes: int):
        super().__init__(backbone, normalise)
        self.classifier = nn.Linear(backbone.channels, num_classes)

    def forward(self, views: Tensor, category: Tensor | None = None) -> TeacherOutput:
        """As :class:`MultiViewTeacher`, with codes as wide as the backbone's features."""
        view_codes = self.backbone(self.images(views)).view(*views.shape[:2], -1)
        code = view_codes.amax(dim=1)  # (B, D)
        return TeacherOutput(view_codes, code, self.classifier(view_codes), self.classifier(code))


class AutoencoderTeacher(ViewTeacher):
    """Views -> view codes -> the same views: the teacher that needs no labels.

    The published network is trained on ShapeNetCore; on ShapeNetPart it gives the segmentation
    teacher its first weights.
    """

    task = "autoencoder"

    def __init__(self, backbone: AttentionVGG, normalise: str):
        super().__init__(backbone, normalise)
        self.decoder = ImageDecoder()

    def forward(self, views: Tensor, category: Tensor | None = None) -> TeacherOutput:
        """As the classification teacher's; ``images`` (B, V, 3, H, W) are near [0, 1]."""
        codes = self.backbone(self.images(views))
        images = self.decoder(codes, views.shape[-2:])
        view_codes = codes.view(*views.shape[:2], CODE_SIZE)
        return TeacherOutput(
            view_codes,
            view_codes.amax(dim=1),
            images=images.view(*views.shape[:2], *images.shape[1:]),
        )


class PartTeacher(ViewTeacher):
    """Views and the category -> view codes and the part of every pixel: the teacher of parts.

    Args:
        num_parts: K, over all categories. num_categories: how many of these there are.
    """

    task = "segmentation"

    def __init__(self, backbone: AttentionVGG, normalise: str, num_parts: int, num_categories: int):
        super().__init__(backbone, normalise)
        self.decoder = PartDecoder(num_parts, num_categories)

    def forward(self, views: Tensor, category: Tensor | None = None) -> TeacherOutput:
        """As the classification teacher's; ``category``: (B,) int64.

        The codes do not depend on the category. Without it there are no logits, and none of the
        decoder's work: this is how codes are exported.

        Raises:
            ConfigError: a category that the teacher does not have.
        """
        batch, count = views.shape[:2]
        stages = self.backbone.maps(self.images(views))
        codes = descriptor(stages[-1])  # (B * V, 512)
        view_codes = codes.view(batch, count, CODE_SIZE)
        output = TeacherOutput(view_codes, view_codes.amax(dim=1))
        if category is not None:
            check_category(category, self.decoder.num_categories)
            logits = self.decoder(
                stages, codes, category.repeat_interleave(count), views.shape[-2:]
            )
            output.logits = output.view_logits = logits.view(batch, count, *logits.shape[1:])
        return output


def build_teacher(
    backbone: str,
    num_classes: int,
    weights: str = "none",
    normalise: str = "imagenet",
    task: str = "classification",
    num_categories: int = 0,
    head: str = "pointmcd",
) -> ViewTeacher:
    """The teacher of a configuration.

    Args:
        backbone: one of ``BACKBONES`` or ``timm/NAME``; the pixel tasks need
            ``vgg11_bn_attention``.
        num_classes: K: classes, in segmentation the parts of all categories, 0 for the autoencoder.
        weights: ``none``, ``imagenet`` or the path of a state dict of the backbone.
        normalise: see :class:`ViewTeacher`.
        task: ``classification``, ``segmentation`` or ``autoencoder``.
        num_categories: of segmentation.
        head: of classification, ``pointmcd`` or ``mvcnn``, :class:`MVCNN`.

    Raises:
        ConfigError: unknown backbone, or one or a head that does not fit the task.
        DataError: the weights cannot be had or do not fit.
    """
    if task != "classification" and backbone != ATTENTION_VGG:
        raise ConfigError(
            f"a teacher for {task} needs teacher.backbone={ATTENTION_VGG}, not {backbone!r}: its "
            "decoder reads the stages of that network"
        )
    if task != "classification" and head != "pointmcd":
        raise ConfigError(f"teacher.head={head} is of teacher.task=classification, found {task}")
    network = build_backbone(backbone, weights)
    if task == "segmentation":
        return PartTeacher(network, normalise, num_classes, num_categories)
    if task == "autoencoder":
        return AutoencoderTeacher(network, normalise)
    kind = MVCNN if head == "mvcnn" else MultiViewTeacher
    return kind(network, normalise, num_classes)


def initialise_backbone(
    teacher: ViewTeacher, build: dict[str, Any], content: dict[str, Any], path: str
) -> None:
    """Give ``teacher`` the backbone of another teacher, of this or another task.

    Args:
        build: arguments of :func:`build_teacher` that made ``teacher``.
        content: the other one's checkpoint as read. path: its file, for messages.

    Raises:
        ConfigError: it has another backbone, or is used to other colours.
    """
    for name in ("backbone", "normalise"):
        found = content["build"].get(name)
        if found != build[name]:
            raise ConfigError(f"init={path} has teacher.{name}={found}, here it is {build[name]}")
    prefix = "backbone."
    state = {k.removeprefix(prefix): v for k, v in content["model"].items() if k.startswith(prefix)}
    load_matching(teacher.backbone, state, f"init={path}", "the backbone here", error=ConfigError)
