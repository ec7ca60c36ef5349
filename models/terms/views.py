"""The multi-view teacher learns from every view by itself, beside the whole shape."""

from __future__ import annotations

from torch import Tensor

from models.outputs import TeacherOutput
from models.terms.base import Batch, Shape, Term
from models.terms.task import TaskSettings, smoothed_cross_entropy


class Views(Term):
    """Cross-entropy of ``view_logits`` (B, V, K) against the class of the shape, averaged over the
    B * V views: the second loss of PointMCD's classification teacher (Zhang et al., TMM 2023).
    """

    name = "views"
    Settings = TaskSettings
    roles = {"teacher": ("classification",)}
    learns_from = "labels"

    @classmethod
    def reads(cls, settings: TaskSettings, network) -> dict[str, Shape | None]:
        return {"label": None}

    def forward(self, batch: Batch, output: TeacherOutput) -> Tensor:
        rows = output.view_logits.flatten(0, 1)  # (B * V, K)
        labels = batch["label"].repeat_interleave(output.view_logits.shape[1])
        return smoothed_cross_entropy(rows, labels, self.settings.smoothing)

    def judge(self, batch: Batch, output: TeacherOutput) -> tuple[Tensor, Tensor]:
        labels = batch["label"].unsqueeze(1).expand(output.view_logits.shape[:2])
        return output.view_logits, labels
