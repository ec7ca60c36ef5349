"""Part-segmentation networks by name, the same names as those of the encoders.

To add one, write a module with ``feature_channels`` (C), ``global_channels`` (D) and
``forward(points (B, N, 3), category (B,)) -> StudentOutput`` with logits (B, N, parts), and one
line here. What it is built with is the number of parts of all categories together and that of the
categories. ``init`` copies the layers that ``encoder_layers`` names, those that make the
embeddings; ``category_layers`` are the ones among them whose size follows from the number of
categories. What it shares with the encoder of classification, if anything, it names ``encoder``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from models.curvenet_seg import CurveNetSegmenter
from models.dgcnn_seg import DGCNNSegmenter
from models.pointnet2_seg import pointnet2_msg_segmenter, pointnet2_ssg_segmenter
from models.pointnet_seg import PointNetSegmenter

SEGMENTERS: dict[str, Callable[[int, int], nn.Module]] = {
    "pointnet": PointNetSegmenter,
    "pointnet2_ssg": pointnet2_ssg_segmenter,
    "pointnet2_msg": pointnet2_msg_segmenter,
    "dgcnn": DGCNNSegmenter,
    "curvenet": CurveNetSegmenter,
}
