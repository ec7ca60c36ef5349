"""Image backbones: torchvision networks without their classification head, and their weights."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from utils.errors import DataError
from utils.weights import load_matching, read_state

# Channels of the last feature map, and the prefix of the classification head that a backbone does
# not need: the only keys that may be left over when ImageNet weights are loaded.
TORCHVISION: dict[str, tuple[int, str]] = {
    "mobilenet_v2": (1280, "classifier."),
    "vgg11_bn": (512, "classifier."),
    "resnet18": (512, "fc."),
    "squeezenet1_0": (512, "classifier."),
}
IMAGENET_COLOURS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean, deviation; torchvision's


class ImageBackbone(nn.Module):
    """A torchvision network without its classification head: (R, 3, H, W) -> (R, channels).

    Args:
        name: one of ``TORCHVISION``. weights: see :func:`load_weights`.
    """

    colours = IMAGENET_COLOURS

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
    state = _imagenet_state(name) if weights == "imagenet" else read_state(weights)
    head = TORCHVISION[name][1]
    load_matching(network, state, weights, name, lambda key: not key.startswith(head))


def _imagenet_state(name: str) -> dict[str, Tensor]:
    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    except OSError as error:
        raise DataError(
            f"ImageNet weights of {name} could not be downloaded ({error}); fetch them where "
            "there is a network and pass teacher.weights=PATH"
        ) from error
