"""One PyTorch operator for each kernel, ``torch.ops.point_kernels.*``, on any device.

As operators they are opaque to ``torch.compile``, which neither looks inside nor breaks its graph
there. The arguments are those of :mod:`models.kernels.plain`; tensors may be strided.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels import plain
from models.kernels.choice import kernels_for

FAST_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.library.custom_op("point_kernels::farthest_point_sample", mutates_args=())
def farthest_point_sample(points: Tensor, m: int, start: int) -> Tensor:
    return kernels_for(points.device).farthest_point_sample(points.contiguous(), m, start)


@farthest_point_sample.register_fake
def _(points: Tensor, m: int, start: int) -> Tensor:
    return points.new_empty(points.shape[0], m, dtype=torch.int64)


@torch.library.custom_op("point_kernels::ball_query", mutates_args=())
def ball_query(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    kernels = kernels_for(points.device)
    return kernels.ball_query(points.contiguous(), centres.contiguous(), radius, k)


@torch.library.custom_op("point_kernels::knn", mutates_args=())
def knn(points: Tensor, queries: Tensor, k: int) -> Tensor:
    return kernels_for(points.device).knn(points.contiguous(), queries.contiguous(), k)


@torch.library.custom_op("point_kernels::smallest", mutates_args=())
def smallest(values: Tensor, k: int) -> Tensor:
    return kernels_for(values.device).smallest(values.contiguous(), k)


@ball_query.register_fake
def _(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    return centres.new_empty(*centres.shape[:2], k, dtype=torch.int64)


@knn.register_fake
def _(points: Tensor, queries: Tensor, k: int) -> Tensor:
    return queries.new_empty(*queries.shape[:2], k, dtype=torch.int64)


@smallest.register_fake
def _(values: Tensor, k: int) -> Tensor:
    return values.new_empty(*values.shape[:2], k, dtype=torch.int64)


@torch.library.custom_op("point_kernels::pack_views", mutates_args=())
def pack_views(visibility: Tensor) -> Tensor:
    return kernels_for(visibility.device).pack_views(visibility.contiguous())


@pack_views.register_fake
def _(visibility: Tensor) -> Tensor:
    return visibility.new_empty(visibility.shape[:2], dtype=torch.int32)


def _projection_kernels(x: Tensor, row: torch.dtype):
    """Tensor code where the others have no kernel: float64, and rows that need more than int16."""
    return kernels_for(x.device) if x.dtype in FAST_TYPES and row is torch.int16 else plain


@torch.library.custom_op("point_kernels::visible_max", mutates_args=())
def visible_max(features: Tensor, bits: Tensor, views: int) -> tuple[Tensor, Tensor]:
    kernels = _projection_kernels(features, plain.row_type(features.shape[1]))
    return kernels.visible_max(features.contiguous(), bits.contiguous(), views)


@visible_max.register_fake
def _(features: Tensor, bits: Tensor, views: int) -> tuple[Tensor, Tensor]:
    batch, count, channels = features.shape
    pooled = features.new_empty(batch, views, channels)
    return pooled, torch.empty_like(pooled, dtype=plain.row_type(count))


@torch.library.custom_op("point_kernels::visible_max_backward", mutates_args=())
def visible_max_backward(gradient: Tensor, row: Tensor, count: int) -> Tensor:
    kernels = _projection_kernels(gradient, row.dtype)
    return kernels.visible_max_backward(gradient.contiguous(), row, count)


@visible_max_backward.register_fake
def _(gradient: Tensor, row: Tensor, count: int) -> Tensor:
    return gradient.new_empty(gradient.shape[0], count, gradient.shape[2])


def _keep_row(ctx, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.count = inputs[0].shape[1]


def _backward(ctx, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None, None]:
    return visible_max_backward(gradient, *ctx.saved_tensors, ctx.count), None, None


visible_max.register_autograd(_backward, setup_context=_keep_row)
