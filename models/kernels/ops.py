"""One PyTorch operator for each kernel, ``torch.ops.point_kernels.*``, on any device.

As operators they are opaque to ``torch.compile``, which neither looks inside nor breaks its graph
there. The arguments are those of :mod:`models.kernels.plain`; tensors may be strided.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import register_fake

from models.kernels import plain
from models.kernels.choice import kernel
from utils.errors import RunError

LIBRARY = torch.library.Library("point_kernels", "DEF")


def operator(function: Callable) -> torch._ops.OpOverload:
    """``function`` as an operator of the same name, which changes none of its arguments.

    ``torch.library.custom_op`` would do it too, and import PyTorch's compiler (2 to 3 s) at the
    first call, in order to tell it that there is nothing to compile.
    """
    name = function.__name__
    LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
    # whatever gradient there is, is that of :func:`_differentiate`
    LIBRARY.impl(name, torch.no_grad()(function), "CompositeExplicitAutograd")
    return getattr(torch.ops.point_kernels, name).default


@operator
def farthest_point_sample(points: Tensor, m: int, start: int, skip_origin: bool = False) -> Tensor:
    sample = kernel("farthest_point_sample", points.device)
    return sample(points.contiguous(), m, start, skip_origin)


@register_fake(farthest_point_sample)
def _(points: Tensor, m: int, start: int, skip_origin: bool = False) -> Tensor:
    return points.new_empty(points.shape[0], m, dtype=torch.int64)


@operator
def ball_query(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    find = kernel("ball_query", points.device)
    return find(points.contiguous(), centres.contiguous(), radius, k)


@register_fake(ball_query)
def _(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    return centres.new_empty(*centres.shape[:2], k, dtype=torch.int64)


@operator
def knn(points: Tensor, queries: Tensor, k: int) -> Tensor:
    return kernel("knn", points.device)(points.contiguous(), queries.contiguous(), k)


@register_fake(knn)
def _(points: Tensor, queries: Tensor, k: int) -> Tensor:
    return queries.new_empty(*queries.shape[:2], k, dtype=torch.int64)


@operator
def smallest(values: Tensor, k: int) -> Tensor:
    return kernel("smallest", values.device)(values.contiguous(), k)


@register_fake(smallest)
def _(values: Tensor, k: int) -> Tensor:
    return values.new_empty(*values.shape[:2], k, dtype=torch.int64)


@operator
def match(a: Tensor, b: Tensor) -> Tensor:
    # elsewhere this would wait for the device
    if a.device.type == "cpu" and not bool(a.isfinite().all() & b.isfinite().all()):
        raise RunError(
            "found a cloud with coordinates that are not finite, expected numbers: where a network "
            "made it, lower optim.lr"
        )
    return kernel("match", a.device)(a.contiguous(), b.contiguous())


@register_fake(match)
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[:2], dtype=torch.int64)


@operator
def pack_views(visibility: Tensor) -> Tensor:
    return kernel("pack_views", visibility.device)(visibility.contiguous())


@register_fake(pack_views)
def _(visibility: Tensor) -> Tensor:
    return visibility.new_empty(visibility.shape[:2], dtype=torch.int32)


def _projection_kernel(name: str, x: Tensor, row: torch.dtype) -> Callable:
    """Tensor code where the others have no kernel: float64, and rows that need more than int16."""
    fast = x.dtype in (torch.float32, torch.bfloat16, torch.float16) and row is torch.int16
    return kernel(name, x.device) if fast else getattr(plain, name)


@operator
def visible_max(features: Tensor, bits: Tensor, views: int) -> tuple[Tensor, Tensor]:
    find = _projection_kernel("visible_max", features, plain.row_type(features.shape[1]))
    return find(features.contiguous(), bits.contiguous(), views)


@register_fake(visible_max)
def _(features: Tensor, bits: Tensor, views: int) -> tuple[Tensor, Tensor]:
    batch, count, channels = features.shape
    pooled = features.new_empty(batch, views, channels)
    return pooled, torch.empty_like(pooled, dtype=plain.row_type(count))


@operator
def visible_max_backward(gradient: Tensor, row: Tensor, count: int) -> Tensor:
    spread = _projection_kernel("visible_max_backward", gradient, row.dtype)
    return spread(gradient.contiguous(), row, count)


def _edge_kernel(name: str, x: Tensor) -> Callable:
    return kernel(name, x.device) if x.dtype is torch.float32 else getattr(plain, name)


@operator
def neighbour_max(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    return _edge_kernel("neighbour_max", values)(values.contiguous(), index.contiguous())


@register_fake(neighbour_max)
def _(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    highest = values.new_empty(*index.shape[:2], values.shape[2])
    return highest, torch.empty_like(highest, dtype=torch.int32)


@operator
def neighbour_max_backward(gradient: Tensor, winner: Tensor, count: int) -> Tensor:
    return _edge_kernel("neighbour_max_backward", gradient)(gradient.contiguous(), winner, count)


@operator
def neighbour_mean(values: Tensor, index: Tensor) -> Tensor:
    return _edge_kernel("neighbour_mean", values)(values.contiguous(), index.contiguous())


@register_fake(neighbour_mean)
def _(values: Tensor, index: Tensor) -> Tensor:
    return values.new_empty(*index.shape[:2], values.shape[2])


@operator
def neighbour_mean_backward(gradient: Tensor, index: Tensor, count: int) -> Tensor:
    spread = _edge_kernel("neighbour_mean_backward", gradient)
    return spread(gradient.contiguous(), index.contiguous(), count)


@register_fake(visible_max_backward)
@register_fake(neighbour_max_backward)
@register_fake(neighbour_mean_backward)
def _(gradient: Tensor, source: Tensor, count: int) -> Tensor:
    return gradient.new_empty(gradient.shape[0], count, gradient.shape[2])


def _no_second_derivative(ctx, gradient: Tensor) -> None:
    raise RuntimeError("the point kernels have no second derivative")


def _differentiate(
    forward: torch._ops.OpOverload, backward: torch._ops.OpOverload, source: Callable
) -> None:
    """``backward(gradient, source, count)`` is the gradient of ``forward`` in its first argument.

    ``source(inputs, output)`` says where each element came from, ``count`` is the second size of
    the first argument.
    """

    def keep(ctx, inputs, output) -> None:
        ctx.save_for_backward(source(inputs, output))
        ctx.count, ctx.others = inputs[0].shape[1], len(inputs) - 1

    def spread(ctx, gradient: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        return backward(gradient, *ctx.saved_tensors, ctx.count), *[None] * ctx.others

    torch.library.register_autograd(forward, spread, setup_context=keep)
    torch.library.register_autograd(backward, _no_second_derivative)


_differentiate(visible_max, visible_max_backward, lambda inputs, output: output[1])
_differentiate(neighbour_max, neighbour_max_backward, lambda inputs, output: output[1])
_differentiate(neighbour_mean, neighbour_mean_backward, lambda inputs, output: inputs[1])
