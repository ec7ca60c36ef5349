"""The published networks that can be converted: what each is, and how its sizes are read.

To add one, write its table in :mod:`models.release.tables` and its entry in :data:`RELEASES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from models.images.teachers import ATTENTION_VGG
from models.release import tables
from models.release.tables import expand, inside

POINTMCD = "https://github.com/keeganhk/PointMCD"
POINTNET2 = "https://github.com/yanx27/Pointnet_Pointnet2_pytorch"
POINTCMT = "https://github.com/ZhanHeshen/PointCMT"
CURVENET = "https://github.com/tiangexiang/CurveNet"
DGCNN = "https://github.com/antao97/dgcnn.pytorch"
POINTMLP = "https://github.com/ma-xu/pointMLP-pytorch"
POINTNEXT = "https://github.com/guochengqian/PointNeXt"
DISTILLED = {  # PointMCD's students keep the projection to the teacher's codes, which a ReLU ends
    "alignment": {
        "settings": {"weight": 1.0},
        "fields": {
            "view_codes": {"shape": [0, 512], "signed": False},
            "visibility": {"shape": [0, 0], "signed": False},
        },
    }
}


class Size(NamedTuple):
    """A number that a shape tells: the length of one axis of an entry, less what else is in it,
    divided by the ``parts`` of each. ``known``: which ones there are; none: any."""

    entry: str
    axis: int
    usual: int
    besides: int = 0
    parts: int = 1  # of which the length is a multiple
    known: tuple[int, ...] = ()

    def read(self, state: Mapping[str, Tensor]) -> int:
        """The usual size where the entry is missing, too small or unknown, which is then
        refused."""
        shape = state[self.entry].shape if self.entry in state else ()
        found = shape[self.axis] - self.besides if len(shape) > self.axis else 0
        found = found // self.parts if found > 0 else 0
        return found if found > 0 and found in (self.known or (found,)) else self.usual


@dataclass(frozen=True)
class Release:
    """A published network.

    ``table``: its layers and ours, see :mod:`models.release.tables`. ``build``: arguments of the
    builder of ``role``, but for the numbers of classes (in segmentation, of parts) and categories,
    which ``classes`` and ``categories`` read. ``heads``: what loss terms trained beside it, as in a
    checkpoint without the weights. ``sizes``: further arguments of the builder that shapes tell.
    ``method``: the label of what taught it. ``offset_last``: published layers that read
    [features, offset] where ours read [offset, features]; the offset is three columns.
    ``difference_first``: those that read [x_j - x_i, x_i] where ours read the halves in the other
    order. ``copies``: a table of names under which a file holds entries once more. ``options``: of
    the encoder, read from the shapes; ``named``: the encoder that has these.
    """

    name: str
    source: str
    role: str
    build: dict[str, Any]
    table: str
    classes: Size | None = None
    categories: Size | None = None
    offset_last: tuple[str, ...] = ()
    difference_first: tuple[str, ...] = ()
    copies: str = ""
    options: Mapping[str, Size] = field(default_factory=dict)
    named: Mapping[tuple[int, ...], str] = field(default_factory=dict)
    heads: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    method: str = "baseline"


def _student(encoder: str, head: str = "published", **more: Any) -> dict[str, Any]:
    task = {"task": "classification", "num_categories": 0}
    return {"encoder": encoder, "head": head, **task, **more}


def _segmenter(encoder: str) -> dict[str, Any]:
    task = "segmentation"
    return {"encoder": encoder, "head": "default", "task": task}


def _teacher(backbone: str, task: str = "classification") -> dict[str, Any]:
    """The published teachers see images that are only scaled to [0, 1]."""
    colours = {"weights": "none", "normalise": "none"}
    return {"backbone": backbone, **colours, "task": task, "num_categories": 0}


def _classes(entry: str) -> Size:
    return Size(entry, axis=0, usual=40)


def _parts(entry: str, besides: int = 0) -> Size:
    return Size(entry, axis=0, usual=50, besides=besides)


def _categories(entry: str, besides: int = 0) -> Size:
    return Size(entry, axis=1, usual=16, besides=besides)


def _first_layers(*blocks: str) -> tuple[str, ...]:
    return tuple(layer for block in blocks for layer in expand(f"{block}.0"))


def _residuals(stages: str, blocks: str) -> str:
    """Of PointMLP, on the neighbours and on the centres."""
    ours = f"encoder.stages.{stages}"
    return inside(
        f"pre_blocks_list.{stages}.operation.{blocks}.",
        f"{ours}.on_neighbours.{blocks}.",
        tables.RESIDUAL,
    ) + inside(
        f"pos_blocks_list.{stages}.operation.{blocks}.",
        f"{ours}.on_centres.{blocks}.",
        tables.RESIDUAL,
    )


RELEASES = (
    Release(
        "Teacher_Cls",
        POINTMCD,
        "teacher",
        _teacher("mobilenet_v2"),
        tables.TEACHER,
        classes=_classes("classifier.weight"),
    ),
    Release(
        "PointNet_Cls_Distiller",
        POINTMCD,
        "student",
        _student("pointnet", "pointmcd"),
        inside("encoder.encoder.", "encoder.", tables.POINTNET)
        + tables.POINTMCD_HEAD
        + tables.PROJECTION,
        heads=DISTILLED,
        method="pointmcd",
        classes=_classes("classifier.weight"),
    ),
    Release(
        "DGCNN_Cls_Distiller",
        POINTMCD,
        "student",
        _student("dgcnn", "pointmcd"),
        tables.DGCNN + tables.POINTMCD_HEAD + tables.PROJECTION,
        heads=DISTILLED,
        method="pointmcd",
        classes=_classes("classifier.weight"),
    ),
    Release(
        "PointNet_Seg_Distiller",
        POINTMCD,
        "student",
        _segmenter("pointnet"),
        inside("encoder.encoder.", "network.encoder.", tables.POINTNET)
        + tables.POINTNET_PARTS
        + tables.PROJECTION,
        heads=DISTILLED,
        method="pointmcd",
        classes=_parts("dec_mlp_4.conv.weight"),
        categories=_categories("dec_mlp_1.conv.weight", besides=2048),
    ),
    Release(
        "DGCNN_Seg_Distiller",
        POINTMCD,
        "student",
        _segmenter("dgcnn"),
        inside("encoder.", "network.", tables.DGCNN_PARTS) + tables.PROJECTION,
        heads=DISTILLED,
        method="pointmcd",
        classes=_parts("encoder.seg_conv_4.conv.weight"),
        categories=_categories("encoder.class_lifting.linear.weight"),
    ),
    Release(
        "CNN_Backbone_Pretrainer",
        POINTMCD,
        "teacher",
        {**_teacher(ATTENTION_VGG, "autoencoder"), "num_classes": 0},
        inside("cnn_backbone.", "", tables.VGG) + tables.VIEW_DECODER,
    ),
    Release(
        "Teacher_Seg",
        POINTMCD,
        "teacher",
        _teacher(ATTENTION_VGG, "segmentation"),
        tables.VGG + tables.PART_DECODER,
        classes=_parts("output.conv.weight", besides=1),  # the background
        categories=_categories("lift.linear.weight"),
    ),
    Release(
        "PointCMT student",
        POINTCMT,
        "student",
        _student("pointnet2_msg", "pointcmt") | {"sampling": "off_origin"},
        inside(
            "model.SA_modules.{0,1}.mlps.{0,1,2}.",
            "encoder.{first,second}.balls.{0,1,2}.",
            tables.POINTCMT_LAYERS,
        )
        + inside("model.SA_modules.2.mlps.0.", "encoder.last.", tables.POINTCMT_LAYERS)
        + tables.POINTCMT_HEAD,
        classes=_classes("model.fc_layer2.0.weight"),
        sizes={"code_size": Size("model.fc_layer1.0.fc.weight", axis=0, usual=512)},
        method="pointcmt",
    ),
    Release(
        "PointCMT teacher",
        POINTCMT,
        "teacher",
        _teacher("resnet18") | {"normalise": "imagenet", "head": "mvcnn"},
        tables.POINTCMT_TEACHER,
        classes=_classes("fc.0.weight"),
    ),
    Release(
        "PointCMT generator",
        POINTCMT,
        "teacher",
        {"task": "generation"},
        tables.POINTCMT_GENERATOR,
        sizes={
            "code_size": Size("fc_l.1.weight", axis=1, usual=512),
            "points": Size("fc_l.1.weight", axis=0, usual=1024, parts=3),
        },
    ),
    Release(
        "CurveNet classification",
        CURVENET,
        "student",
        _student("curvenet_released"),
        tables.CURVENET_ENDS
        + inside("cic{11,12,21,22,31,32,41,42}.", "encoder.blocks.{0,1,2,3,4,5,6,7}.", tables.CIC)
        + inside("cic{11,12,21,22}.", "encoder.blocks.{0,1,2,3}.", tables.CURVES),
        classes=_classes("conv2.weight"),
    ),
    Release(
        "PointNet++ SSG classification",
        POINTNET2,
        "student",
        _student("pointnet2_ssg"),
        inside("", "encoder.", tables.ONE_SCALE) + tables.CLASSIFIER,
        classes=_classes("fc3.weight"),
    ),
    Release(
        "PointNet++ MSG classification",
        POINTNET2,
        "student",
        _student("pointnet2_msg"),
        inside("", "encoder.", tables.SCALES + tables.THIRD_SCALE) + tables.CLASSIFIER,
        classes=_classes("fc3.weight"),
        offset_last=_first_layers("sa{1,2}.conv_blocks.{0,1,2}"),
    ),
    Release(
        "PointNet++ SSG part segmentation",
        POINTNET2,
        "student",
        _segmenter("pointnet2_ssg"),
        inside("", "network.", tables.ONE_SCALE + tables.PROPAGATION),
        classes=_parts("conv2.weight"),
        categories=_categories("fp1.mlp_convs.0.weight", besides=134),  # 128, twice 3 coordinates
    ),
    Release(
        "PointNet++ MSG part segmentation",
        POINTNET2,
        "student",
        _segmenter("pointnet2_msg"),
        inside("", "network.", tables.SCALES + tables.PROPAGATION),
        classes=_parts("conv2.weight"),
        categories=_categories("fp1.mlp_convs.0.weight", besides=134),
        offset_last=_first_layers("sa{1,2}.conv_blocks.{0,1}", "sa1.conv_blocks.{2}"),
    ),
    Release(
        "DGCNN classification",
        DGCNN,
        "student",
        _student("dgcnn_published"),
        tables.DGCNN_CLASSES,
        classes=_classes("linear3.weight"),
        difference_first=tuple(expand("conv{1,2,3,4}.0")),
        copies=tables.DGCNN_COPIES,
    ),
    Release(
        "PointMLP",
        POINTMLP,
        "student",
        _student("pointmlp", sampling="off_origin"),
        tables.POINTMLP + _residuals("{0,1,2,3}", "{0,1}"),
        classes=_classes("classifier.8.weight"),
    ),
    Release(
        "PointMLP-elite",
        POINTMLP,
        "student",
        _student("pointmlp_elite", sampling="off_origin"),
        tables.POINTMLP + _residuals("{0,1,2,3}", "{0}") + _residuals("{2}", "{1}"),
        classes=_classes("classifier.8.weight"),
    ),
    Release(
        "PointNeXt-S",
        POINTNEXT,
        "student",
        _student("pointnext_s", options={"up": 1}),  # in the files of their sets
        tables.POINTNEXT,
        classes=_classes("prediction.head.4.0.weight"),
        options={
            "width": Size("encoder.encoder.0.0.convs.0.0.weight", axis=0, usual=32),
            "inputs": Size("encoder.encoder.0.0.convs.0.0.weight", axis=1, usual=3, known=(3, 4)),
        },
        named={(64, 3): "pointnext_s64", (32, 4): "pointnext_s_height"},
    ),
)
