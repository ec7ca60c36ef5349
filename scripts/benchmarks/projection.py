"""The projection, forward and backward, in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from models.terms.alignment import visible_max_pool
from scripts.benchmarks.contest import Contest, Sizes, expect
from scripts.reference.operations import project

Pool = Callable[[Tensor, Tensor], Tensor]
INDEX_BYTES = 2  # of the row that a maximum came from


def contests(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], Contest]]:
    types = {"float32": torch.float32, "bf16": torch.bfloat16}
    return {
        f"projection, {name}": partial(projection, sizes, device, dtype)
        for name, dtype in types.items()
    }


def projection(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Contest:
    """Embeddings are not negative, as after a ReLU: where the published form is right."""
    batch, points, channels, views = sizes.projection
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(batch, points, channels, generator=generator).to(device, dtype)
    seen = torch.rand(batch, points, views, generator=generator) < sizes.visible
    upstream = torch.randn(batch, views, channels, generator=generator).to(device, dtype)
    features.requires_grad_()
    seen = seen.to(device)
    # embeddings read, their gradient written; maxima and rows written, rows and gradient read
    moved = 2 * features.nbytes + 2 * upstream.nbytes + 2 * INDEX_BYTES * upstream.numel()
    moved += batch * points * 4 * 2  # one word of view bits per point, read by both passes
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    forms = {
        "published": partial(step, project, features, seen, upstream),
        "ours": partial(step, visible_max_pool, features, seen, upstream),
        "copy": partial(target.copy_, source),
    }
    size = f"B={batch} N={points} C={channels} V={views}, {100 * sizes.visible:.0f} % visible"
    return Contest(size, forms, partial(check, features, seen, upstream), batch, moved)


def step(pool: Pool, features: Tensor, seen: Tensor, upstream: Tensor) -> Tensor:
    features.grad = None
    pooled = pool(features, seen)
    pooled.backward(upstream)
    return pooled.detach()


def check(features: Tensor, seen: Tensor, upstream: Tensor) -> None:
    """Equal maxima; gradients equal but for the order in which views are summed.

    The gradient is compared in float32 only: of equal maxima, which bfloat16 has many of, each form
    takes its own.
    """
    ours, theirs = (step(pool, features, seen, upstream) for pool in (visible_max_pool, project))
    features.grad = None
    expect(torch.equal(ours, theirs), "projection", "in its maxima")
    if features.dtype is not torch.float32:
        return
    gradients = []
    for pool in (visible_max_pool, project):
        step(pool, features, seen, upstream)
        gradients.append(features.grad)
    features.grad = None
    expect(torch.allclose(*gradients, rtol=1e-4, atol=1e-5), "projection", "in the gradient")
