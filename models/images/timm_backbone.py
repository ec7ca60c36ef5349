"""Networks of timm (Wightman, PyTorch Image Models) as image backbones, trained or frozen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config import did_you_mean
from utils.errors import ConfigError, DataError
from utils.weights import load_matching, read_state

PREFIX = "timm/"  # of a backbone's name in a configuration


class TimmBackbone(nn.Module):
    """A network of timm without its classifier: images (R, 3, H, W) -> (R, channels), the pooled
    features that its classifier would read.

    A network whose input has a fixed size (vision transformers) gets its images resized to that,
    bilinearly with antialiasing; others take images as they come, unless :meth:`resize_to` says so.

    Args:
        name: of timm, behind ``timm/`` or not; ``ARCHITECTURE.TAG`` names one of its releases.
        weights: ``none`` (random), ``imagenet`` (timm's release, which some networks learned from
            other images; downloaded once) or the path of a state dict of the same network.

    Attributes:
        channels: of the features. colours: mean and deviation of the channels, which the release
        expects. side: pixels that images are resized to, or None. usual_side: of the release.

    Raises:
        ConfigError: timm is not installed or has no such network.
        DataError: the weights cannot be had or do not fit.
    """

    def __init__(self, name: str, weights: str = "none"):
        super().__init__()
        self.name = name.removeprefix(PREFIX)
        self.network = _create(self.name, weights)
        self.channels: int = self.network.head_hidden_size
        release = self.network.pretrained_cfg
        self.colours = tuple(release["mean"]), tuple(release["std"])
        self.usual_side: int = release["input_size"][-1]
        self.fixed = bool(release.get("fixed_input_size"))
        self.side = self.usual_side if self.fixed else None
        self.to(memory_format=torch.channels_last)

    def resize_to(self, side: int) -> None:
        """Resize all images to ``side`` x ``side`` pixels; for a network in evaluation mode.

        Raises:
            ConfigError: the network does not take them.
        """
        try:
            if self.fixed and side != self.side:
                self.network.set_input_size(img_size=(side, side))
            self.side = side
            with torch.no_grad():
                self(torch.zeros(1, 3, side, side))
        except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"timm's {self.name} gives no features of images of {side} x {side} pixels "
                f"({error}); its own size is {self.usual_side}"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        if self.side is not None and images.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        maps = self.network.forward_features(images.contiguous(memory_format=torch.channels_last))
        return self.network.forward_head(maps, pre_logits=True).float()  # (R, channels)


def _create(name: str, weights: str) -> nn.Module:
    try:
        import timm  # takes seconds, and few commands need it
    except ImportError as error:
        raise ConfigError(f"the network {PREFIX}{name} needs timm: pip install timm") from error
    if not timm.is_model(name):
        architecture = name.partition(".")[0]
        raise ConfigError(
            f"timm {timm.__version__} has no network {architecture!r}"
            f"{did_you_mean(architecture, timm.list_models())}"
        )
    if weights == "imagenet":
        try:
            return timm.create_model(name, pretrained=True, num_classes=0)
        except Exception as error:  # of the hub, its client or timm
            reason = str(error).strip().partition("\n")[0]
            raise DataError(
                f"timm's weights of {name} cannot be had ({reason}); fetch them where there is a "
                "network and give the file: --weights FILE, in training teacher.weights=FILE"
            ) from error
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise ConfigError(f"timm {timm.__version__} has no network {name!r}: {error}") from error
    if weights != "none":
        heads = network.pretrained_cfg.get("classifier") or ()  # a name or several
        heads = (heads,) if isinstance(heads, str) else heads
        prefixes = tuple(f"{head}." for head in heads)
        state = read_state(weights)
        load_matching(network, state, weights, name, lambda key: not key.startswith(prefixes))
    return network
