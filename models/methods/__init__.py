"""Training methods by name: one file and one line each."""

from __future__ import annotations

from torch import nn

from models.methods.base import Method, MethodOutput
from models.methods.image_autoencoder import ImageAutoencoder
from models.methods.plain import Plain
from models.methods.pointmcd import PointMCD
from models.methods.view_classification import ViewClassification
from models.methods.view_segmentation import ViewSegmentation
from utils.config import did_you_mean
from utils.errors import ConfigError

METHODS: dict[str, type[Method]] = {
    "plain": Plain,
    "pointmcd": PointMCD,
    "view_classification": ViewClassification,
    "view_segmentation": ViewSegmentation,
    "image_autoencoder": ImageAutoencoder,
}

__all__ = [
    "METHODS",
    "ImageAutoencoder",
    "Method",
    "MethodOutput",
    "Plain",
    "PointMCD",
    "ViewClassification",
    "ViewSegmentation",
    "build_method",
]


def build_method(name: str, network: nn.Module, weights: dict[str, float], **options) -> Method:
    """The method ``name`` around ``network``, with those of ``options`` that it has.

    Raises:
        ConfigError: an unknown name, with a suggestion; see also :class:`Method`.
    """
    if name not in METHODS:
        raise ConfigError(
            f"unknown method {name!r}, expected one of {list(METHODS)}{did_you_mean(name, METHODS)}"
        )
    method = METHODS[name]
    return method(network, weights, **{key: options[key] for key in method.options})
