"""Frozen image networks as teachers: what a network of timm knows of views that it never saw."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from models.images.teachers import ViewTeacher
from models.images.timm_backbone import TimmBackbone
from models.outputs import TeacherOutput
from utils.checkpoint import fingerprint
from utils.device import seed_everything
from utils.distributed import is_main


class FrozenTeacher(ViewTeacher):
    """A network of timm as it comes, with the output of a teacher: its features of every view are
    the view codes, their mean over the views the code of the shape.

    Its parameters need no gradient, and it stays in evaluation mode whatever module it is part of.

    Args:
        name, weights: see :class:`TimmBackbone`.
        size: side in pixels that views are resized to; None: that of the network's release.

    Raises:
        ConfigError: timm is not installed or has no such network, or it does not take the size.
        DataError: the weights cannot be had or do not fit.
    """

    def __init__(self, name: str, weights: str = "imagenet", size: int | None = None):
        backbone = TimmBackbone(name, weights).eval()
        backbone.resize_to(size or backbone.usual_side)
        super().__init__(backbone, "imagenet")
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenTeacher:
        return super().train(False)

    def forward(self, views: Tensor, category: Tensor | None = None) -> TeacherOutput:
        """``views``: (B, V, 1 or 3, H, W), uint8 or float in [0, 1]; ``category`` is not read."""
        codes = self.backbone(self.images(views))
        view_codes = codes.view(*views.shape[:2], -1)  # (B, V, D)
        return TeacherOutput(view_codes, view_codes.mean(dim=1))


def open_frozen(name: str, weights: str, size: int | None) -> tuple[FrozenTeacher, dict[str, Any]]:
    """A frozen teacher, and where its codes come from, for the provenance of a bank.

    Args and errors as of :class:`FrozenTeacher`; random weights are the same every time.
    """
    if weights == "none":
        seed_everything(0)
        if is_main():
            print(f"warning: {name} with random weights, which know nothing", file=sys.stderr)
    teacher = FrozenTeacher(name, weights, size)
    mean, std = teacher.backbone.colours
    known = {"none": "random", "imagenet": "release of timm"}
    return teacher, {
        "teacher_file": known.get(weights, Path(weights).name),
        "teacher_hash": fingerprint(teacher.state_dict()),
        "teacher_config": {
            "timm": teacher.backbone.name,
            "features": "forward_head(forward_features(view), pre_logits=True)",
            "code": "mean of the view codes",
            "size": teacher.backbone.side,
            "resizing": "bilinear, antialiased",
            "mean": list(mean),
            "std": list(std),
        },
        "timm_version": version("timm"),
    }
