"""Training methods by name: one file and one line each."""

from __future__ import annotations

from torch import nn

from models.methods.base import Method, MethodOutput
from models.methods.plain import Plain
from models.methods.pointmcd import PointMCD
from models.methods.view_classification import ViewClassification
from utils.config import did_you_mean
from utils.errors import ConfigError

METHODS: dict[str, type[Method]] = {
    "plain": Plain,
    "pointmcd": PointMCD,
    "view_classification": ViewClassification,
}

__all__ = [
    "METHODS",
    "Method",
    "MethodOutput",
    "Plain",
    "PointMCD",
    "ViewClassification",
    "build_method",
]


def build_method(name: str, network: nn.Module, weights: dict[str, float], **options) -> Method:
    """The method ``name`` around ``network``; unknown names raise ConfigError with a suggestion."""
    if name not in METHODS:
        raise ConfigError(
            f"unknown method {name!r}, expected one of {list(METHODS)}{did_you_mean(name, METHODS)}"
        )
    return METHODS[name](network, weights, **options)
