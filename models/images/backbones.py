"""Image backbones: torchvision networks without their classification head, and their weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from utils.errors import DataError

# Channels of the last feature map, and the prefix of the classification head that a backbone does
# not need: the only keys that may be left over when ImageNet weights are loaded.
TORCHVISION: dict[str, tuple[int, str]] = {
    "mobilenet_v2": (1280, "classifier."),
    "vgg11_bn": (512, "classifier."),
    "resnet18": (512, "fc."),
    "squeezenet1_0": (512, "classifier."),
}


class ImageBackbone(nn.Module):
    """A torchvision network without its classification head: (R, 3, H, W) -> (R, channels).

    Args:
        name: one of ``TORCHVISION``. weights: see :func:`load_weights`.
    """

    def __init__(self, name: str, weights: str = "none"):
        super().__init__()
        self.channels = TORCHVISION[name][0]
        network = torchvision.models.get_model(name, weights=None)
        load_weights(network, name, weights)
        if name == "resnet18":
            self.features = nn.Sequential(*list(network.children())[:-2])
        else:
            self.features = network.features
        # Channels last: three times faster on a CPU with bfloat16, and what tensor cores want.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images.contiguous(memory_format=torch.channels_last))
        return maps.float().mean(dim=(2, 3))  # (R, channels)


def load_weights(network: nn.Module, name: str, weights: str) -> None:
    """Give a network of ``TORCHVISION`` its first weights; every key must fit except the head's.

    Args:
        network: with the parameter names of torchvision's; its head may be left out.
        weights: ``none`` (random), ``imagenet`` (torchvision's release, downloaded once) or the
            path of a torchvision state dict of the same network.

    Raises:
        DataError: the weights cannot be had or do not fit.
    """
    if weights == "none":
        return
    state = _imagenet_state(name) if weights == "imagenet" else _read_state_dict(weights)
    head_prefix = TORCHVISION[name][1]
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


def _imagenet_state(name: str) -> dict[str, Tensor]:
    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    except OSError as error:
        raise DataError(
            f"ImageNet weights of {name} could not be downloaded ({error}); fetch them where "
            "there is a network and pass teacher.weights=PATH"
        ) from error


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
