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
    """What a student returns: the encoder's output and ``logits``.

    ``logits`` (B, K) over K classes; in part segmentation (B, N, K), for every point over the parts
    of all categories.
    ``code`` (B, W): what the last layer of a classification head reads. Of the head ``pointcmt`` it
    is the ``global_feature`` too, elsewhere that is the encoder's.
    ``view_codes`` (B, V, D): the student's own view codes, where it was called with a visibility;
    ``seen`` (B, V) bool is False for views that see none of the points with embeddings.
    """

    logits: Tensor
    global_feature: Tensor
    point_features: Tensor
    point_index: Tensor
    extra_losses: dict[str, Tensor] = field(default_factory=dict)
    code: Tensor | None = None
    view_codes: Tensor | None = None
    seen: Tensor | None = None


@dataclass
class TeacherOutput:
    """What a multi-view teacher returns for a batch of shapes seen from V views each.

    ``view_codes`` (B, V, D) and ``code`` (B, D): of PointMCD's teachers 512 channels that end in a
    ReLU or are means of what does, so they are not negative; of a frozen network, or of the
    backbone that is PointCMT's teacher, its own channels, of any number and sign.
    Classification: ``view_logits`` (B, V, K) and ``logits`` (B, K) from one shared classifier.
    Segmentation: ``view_logits`` and ``logits`` are the same (B, V, K + 1, H, W), for every pixel
    over the parts of all categories and the background, which comes last.
    Autoencoder: ``images`` (B, V, 3, H, W), and no logits.
    """

    view_codes: Tensor
    code: Tensor
    view_logits: Tensor | None = None
    logits: Tensor | None = None
    images: Tensor | None = None

    @property
    def global_feature(self) -> Tensor:
        """The code, by the name that students have for what describes a whole shape."""
        return self.code

    def arrays(self) -> dict[str, Tensor]:
        """What a bank keeps, under the names that it has there: all but the images."""
        held = {
            "view_codes": self.view_codes,
            "codes": self.code,
            "view_logits": self.view_logits,
            "logits": self.logits,
        }
        return {name: value for name, value in held.items() if value is not None}
