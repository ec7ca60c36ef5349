"""Image backbones: torchvision networks without their classification head, and their weights."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
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
        network = torchvision_models().get_model(name, weights=None)
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
        weights = torchvision_models().get_model_weights(name).DEFAULT
        return weights.get_state_dict(progress=False)
    except OSError as error:
        raise DataError(
            f"ImageNet weights of {name} could not be downloaded ({error}); fetch them where "
            "there is a network and pass teacher.weights=PATH"
        ) from error


@cache
def torchvision_models() -> ModuleType:
    """``torchvision.models``, imported without PyTorch's compiler.

    One of torchvision's operators for boxes imports a function of it, which takes 2 to 3 s and
    which nothing here calls.
    """
    later = _Later("torch._dynamo.utils")
    sys.modules.setdefault(later.__name__, later)
    try:
        return importlib.import_module("torchvision.models")
    finally:
        later.step_aside()


class _Later(ModuleType):
    """Stands in for a module of the compiler, which is imported when one of its functions is called
    or when somebody imports the compiler itself."""

    def step_aside(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def _load(self, name: str) -> Callable:
        self.step_aside()
        return getattr(importlib.import_module(self.__name__), name)

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):  # asked for by who looks at all modules, such as inspect
            raise AttributeError(name)
        if "torch._dynamo" in sys.modules:
            return self._load(name)
        return lambda *arguments, **more: self._load(name)(*arguments, **more)
