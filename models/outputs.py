"""The output contracts. One form for every student, so that a method never asks which one it has.

Shapes: B clouds, N input points, M points that carry an embedding (M <= N), C its channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class EncoderOutput:
    """What a point encoder returns for a batch of clouds (B, N, 3).

    ``point_features`` (B, M, C): embeddings just before the encoder's global pooling.
    ``point_index`` (B, M) int64: which input point each embedding stands for. It is what lets one
    visibility-aware projection serve encoders that keep all points and encoders that down-sample.
    ``global_feature`` (B, D): the pooled cloud feature that the classification head reads.
    ``extra_losses``: scalar terms that belong to the architecture (the transform regulariser of
    PointNet), by name.
    """

    point_features: Tensor
    point_index: Tensor
    global_feature: Tensor
    extra_losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class StudentOutput:
    """What a student returns: the encoder's output and ``logits`` (B, K) over K classes."""

    logits: Tensor
    global_feature: Tensor
    point_features: Tensor
    point_index: Tensor
    extra_losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class TeacherOutput:
    """What a multi-view teacher returns for a batch of shapes seen from V views each.

    ``view_codes`` (B, V, 512) and ``code`` (B, 512) end in a ReLU and are therefore not negative;
    ``view_logits`` (B, V, K) and ``logits`` (B, K) come from one shared linear classifier.
    """

    view_codes: Tensor
    code: Tensor
    view_logits: Tensor
    logits: Tensor
