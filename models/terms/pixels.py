"""The segmentation teacher learns which part every pixel of a view shows."""

from __future__ import annotations

from torch import Tensor

from models.outputs import TeacherOutput
from models.terms.base import Batch, Shape, Term
from models.terms.task import smoothed_cross_entropy
from utils.settings import TermSettings


class Pixels(Term):
    """Cross-entropy of every labelled pixel over the parts of all categories and the background,
    without smoothing: the loss of PointMCD's segmentation teacher (Zhang et al., TMM 2023).

    Batch: ``part_images`` (B, V, H, W) int64, -1 where a pixel has no label.
    """

    name = "pixels"
    roles = {"teacher": ("segmentation",)}
    learns_from = "labels"
    trains_all = True

    @classmethod
    def reads(cls, settings: TermSettings, network) -> dict[str, Shape | None]:
        return {"part_images": None}

    def forward(self, batch: Batch, output: TeacherOutput) -> Tensor:
        return smoothed_cross_entropy(*self.judge(batch, output), 0.0)

    def judge(self, batch: Batch, output: TeacherOutput) -> tuple[Tensor, Tensor]:
        return output.logits.movedim(2, -1), batch["part_images"]  # (B, V, H, W, K + 1)
