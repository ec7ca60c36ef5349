"""The multi-view image teacher of PointMCD (Zhang et al., TMM 2023).

Each view goes through one shared image backbone, global average pooling and a linear head to a
512-d view code; the channel-wise maximum over the views, through one more layer, is the code of the
shape. One bias-free classifier serves the shape code and every view code.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from models.outputs import TeacherOutput
from utils.errors import ConfigError, DataError

CODE_SIZE = 512
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Channels of the last feature map, and the prefix of the classification head that a backbone does
# not need: the only keys that may be left over when ImageNet weights are loaded.
BACKBONES: dict[str, tuple[int, str]] = {
    "mobilenet_v2": (1280, "classifier."),
    "vgg11_bn": (512, "classifier."),
    "resnet18": (512, "fc."),
    "squeezenet1_0": (512, "classifier."),
}


class ImageBackbone(nn.Module):
    """A torchvision network without its classification head: (R, 3, H, W) -> (R, channels).

    Args:
        name: one of ``BACKBONES``.
        weights: ``none`` (random), ``imagenet`` (torchvision's release, downloaded once) or the
            path of a torchvision state dict of the same network.

    Raises:
        ConfigError: unknown name. DataError: the weights cannot be had or do not fit.
    """

    def __init__(self, name: str, weights: str = "none"):
        super().__init__()
        if name not in BACKBONES:
            near = difflib.get_close_matches(name, BACKBONES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown backbone {name!r}, expected one of {list(BACKBONES)}{hint}")
        self.channels, head_prefix = BACKBONES[name]
        network = torchvision.models.get_model(name, weights=None)
        if weights != "none":
            _load_backbone(network, name, weights, head_prefix)
        if name == "resnet18":
            self.features = nn.Sequential(*list(network.children())[:-2])
        else:
            self.features = network.features
        # Channels last: three times faster on a CPU with bfloat16, and what tensor cores want.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images.contiguous(memory_format=torch.channels_last))
        return maps.float().mean(dim=(2, 3))  # (R, channels)


def _load_backbone(network: nn.Module, name: str, weights: str, head_prefix: str) -> None:
    """Load torchvision weights; every key must fit except those of the unused head."""
    if weights == "imagenet":
        try:
            state = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(
                progress=False
            )
        except OSError as error:
            raise DataError(
                f"ImageNet weights of {name} could not be downloaded ({error}); fetch them where "
                "there is a network and pass teacher.weights=PATH"
            ) from error
    else:
        state = _read_state_dict(weights)
    own = {k: v for k, v in network.state_dict().items() if not k.startswith(head_prefix)}
    given = {k: v for k, v in state.items() if not k.startswith(head_prefix)}
    missing = sorted(k for k in own.keys() - given.keys() if not k.endswith("num_batches_tracked"))
    left_over = sorted(given.keys() - own.keys())
    misshapen = sorted(k for k in own.keys() & given.keys() if own[k].shape != given[k].shape)
    if missing or left_over or misshapen:
        raise DataError(
            f"weights {weights} do not fit {name}: missing {missing[:3]} ({len(missing)}), "
            f"unexpected {left_over[:3]} ({len(left_over)}), of another shape {misshapen[:3]} "
            f"({len(misshapen)}); pass a state dict of torchvision's {name}"
        )
    network.load_state_dict(given, strict=False)


def _read_state_dict(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise DataError(f"no weights at {path}; pass teacher.weights=none, imagenet or a file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{path} is not a PyTorch state dict: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"{path} holds no plain state dict (names to tensors)")
    return state


def code_layer(inputs: int) -> nn.Sequential:
    """Linear without bias, batch norm, ReLU: the layer that makes a code."""
    return nn.Sequential(
        nn.Linear(inputs, CODE_SIZE, bias=False), nn.BatchNorm1d(CODE_SIZE), nn.ReLU()
    )


class MultiViewTeacher(nn.Module):
    """Views of a shape -> view codes, shape code and logits (PointMCD, classification teacher).

    Args:
        backbone: name of a torchvision network of ``BACKBONES``.
        num_classes: K.
        weights: see :class:`ImageBackbone`.
        normalise: ``imagenet`` subtracts torchvision's mean and divides by its deviation, which
            ImageNet weights expect; ``none`` only scales to [0, 1], as the published code does.
    """

    def __init__(
        self, backbone: str, num_classes: int, weights: str = "none", normalise: str = "imagenet"
    ):
        super().__init__()
        self.backbone = ImageBackbone(backbone, weights)
        self.view_head = code_layer(self.backbone.channels)
        self.shape_head = code_layer(CODE_SIZE)
        self.classifier = nn.Linear(CODE_SIZE, num_classes, bias=False)
        mean, std = (
            (IMAGENET_MEAN, IMAGENET_STD) if normalise == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
        )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, views: Tensor) -> TeacherOutput:
        """``views``: (B, V, 1 or 3, H, W), uint8 or float in [0, 1]."""
        batch, count = views.shape[:2]
        images = views.flatten(0, 1)  # (B * V, 1 or 3, H, W)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        images = (images - self.mean) / self.std  # grey broadcasts to three channels
        view_codes = self.view_head(self.backbone(images)).view(batch, count, CODE_SIZE)
        code = self.shape_head(view_codes.amax(dim=1))  # (B, 512)
        return TeacherOutput(view_codes, code, self.classifier(view_codes), self.classifier(code))


def build_teacher(
    backbone: str, num_classes: int, weights: str = "none", normalise: str = "imagenet"
) -> MultiViewTeacher:
    """The teacher of a configuration; see :class:`MultiViewTeacher`."""
    return MultiViewTeacher(backbone, num_classes, weights, normalise)
