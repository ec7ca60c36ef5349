"""Sampling, neighbours, grouping and interpolation on surface-like clouds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from models.layers import pointops
from scripts.benchmarks.contest import Contest, Form, Sizes, expect
from scripts.benchmarks.inputs import clouds
from scripts.reference import operations

RADIUS, IN_BALL, NEAREST, CHANNELS = 0.2, 32, 20, 64
SAME_INDICES = 0.999  # the others lie on the edge of a ball, to the last digit of float32


def contests(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], Contest]]:
    builders = {
        "farthest-point sampling": sampling,
        "ball query": balls,
        "kNN": neighbours,
        "kNN of features": feature_neighbours,
        "grouping": grouping,
        "3-NN interpolation": interpolation,
    }
    return {name: partial(build, sizes, device) for name, build in builders.items()}


def describe(sizes: Sizes) -> str:
    batch, count, _ = sizes.clouds
    return f"B={batch} N={count}"


def contest(sizes: Sizes, published: Form, ours: Form, check: Form, more: str) -> Contest:
    forms = {"published": published, "ours": ours}
    return Contest(f"{describe(sizes)}, {more}", forms, check, sizes.clouds[0])


def make_inputs(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Points (B, N, 3), every second of them as centres (B, S, 3), features (B, N, C)."""
    batch, count, centres = sizes.clouds
    # any order but the stored one, in which a farthest-point sample is a prefix
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    points = clouds(batch, count, device)[:, order.to(device)].contiguous()
    features = torch.randn(batch, count, CHANNELS, generator=torch.Generator().manual_seed(2))
    return points, points[:, :centres].contiguous(), features.to(device)


def sampling(sizes: Sizes, device: torch.device) -> Contest:
    points, _, _ = make_inputs(sizes, device)
    count = sizes.clouds[2]
    published = partial(operations.farthest, points, count)
    ours = partial(pointops.farthest_point_sample, points, count)

    def check() -> None:
        chosen = ours()  # (B, m)
        exact = points.double()
        away = torch.cdist(exact, operations.rows(exact, chosen))  # (B, N, m)
        to_chosen = away.cummin(dim=2).values[..., :-1]  # after each choice but the last
        taken = to_chosen.gather(1, chosen[:, None, 1:]).squeeze(1)
        farthest = bool((taken >= (1 - 1e-6) * to_chosen.amax(dim=1)).all())
        expect(farthest and bool((chosen[:, 0] == 0).all()), "sampling", "a nearer point is taken")

    return contest(sizes, published, ours, check, f"{count} centres")


def balls(sizes: Sizes, device: torch.device) -> Contest:
    points, centres, _ = make_inputs(sizes, device)
    published = partial(operations.ball, points, centres, RADIUS, IN_BALL)
    ours = partial(pointops.ball_query, points, centres, RADIUS, IN_BALL)

    def check() -> None:
        exact = operations.ball(points.double(), centres.double(), RADIUS, IN_BALL)
        same = (ours() == exact).double().mean().item()
        expect(same >= SAME_INDICES, "ball query", f"{100 * same:.1f} % of the indices are equal")

    more = f"{sizes.clouds[2]} centres, radius {RADIUS}, {IN_BALL} points"
    return contest(sizes, published, ours, check, more)


def knn_contest(sizes: Sizes, points: Tensor, queries: Tensor, more: str) -> Contest:
    published = partial(operations.nearest, points, queries, NEAREST)
    ours = partial(pointops.knn, points, queries, NEAREST)

    def check() -> None:
        apart = operations.distances(queries.double(), points.double())
        expected = apart.topk(NEAREST, dim=2, largest=False).values
        found = apart.gather(2, ours())
        close = torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
        expect(close, "kNN", "a farther point is taken, or the order is another")

    return contest(sizes, published, ours, check, more)


def neighbours(sizes: Sizes, device: torch.device) -> Contest:
    points, _, _ = make_inputs(sizes, device)
    return knn_contest(sizes, points, points, f"k={NEAREST}")


def feature_neighbours(sizes: Sizes, device: torch.device) -> Contest:
    features = make_inputs(sizes, device)[2]
    return knn_contest(sizes, features, features, f"k={NEAREST}, {CHANNELS} channels")


def grouping(sizes: Sizes, device: torch.device) -> Contest:
    points, centres, features = make_inputs(sizes, device)
    index = operations.ball(points, centres, RADIUS, IN_BALL)
    more = f"{sizes.clouds[2]} balls of {IN_BALL}, {CHANNELS} channels, with gradient"
    return with_gradient(
        sizes,
        features,
        lambda: operations.rows(features, index),
        lambda: pointops.gather_rows(features, index),
        more,
    )


def interpolation(sizes: Sizes, device: torch.device) -> Contest:
    points, known, features = make_inputs(sizes, device)
    features = features[:, : known.shape[1]].contiguous()
    return with_gradient(
        sizes,
        features,
        lambda: operations.interpolate(points, known, features),
        lambda: pointops.interpolate_three_nn(points, known, features),
        f"from {sizes.clouds[2]} points, {CHANNELS} channels, with gradient",
    )


def with_gradient(
    sizes: Sizes, features: Tensor, published: Form, ours: Form, more: str
) -> Contest:
    """Forward and backward of two forms that read ``features``, compared in both."""
    features.requires_grad_()
    upstream = torch.randn_like(published().detach())

    def step(form: Form) -> tuple[Tensor, Tensor]:
        features.grad = None
        output = form()
        output.backward(upstream)
        return output.detach(), features.grad

    def check() -> None:
        results = step(ours), step(published)
        for name, mine, theirs in zip(("values", "gradients"), *results, strict=True):
            close = torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3)
            expect(close, more, f"in the {name}")

    return contest(sizes, partial(step, published), partial(step, ours), check, more)
