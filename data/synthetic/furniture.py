"""Furniture among the embedded shapes: chair, stool, bench, sofa, table, desk.

The six share legs, slabs and proportions on purpose. A stool with a low back is nearly a chair, a
small table nearly a stool, a desk without panel nearly a table, a narrow sofa nearly an armchair.
Each function returns named pieces; the frame is that of ``data.synthetic.primitives``.
"""

from __future__ import annotations

import numpy as np

from data.synthetic.primitives import Mesh, Pieces, box, frustum, lathe, merge, outline, prism, tube

SINK = 0.004  # touching blocks overlap by this much, so that no two faces coincide


def corner_legs(
    rng: np.random.Generator, width: float, depth: float, height: float, most_splay: float = 0.09
) -> Mesh:
    """Four straight, tapered or splayed legs, now and then joined by stretchers."""
    sides = int(rng.choice([4, 10]))
    thick = rng.uniform(0.018, 0.035) * (1.3 if sides == 4 else 1.0)
    foot = thick * rng.choice([1.0, rng.uniform(0.4, 0.8)])
    splay = rng.choice([0.0, rng.uniform(0.2, 1.0) * most_splay])
    inset = rng.uniform(0.03, 0.08)
    x, y = max(width / 2 - inset, 0.05), max(depth / 2 - inset, 0.05)
    corners = [(sx, sy) for sx in (-1, 1) for sy in (-1, 1)]
    pieces = [
        tube(
            [(sx * (x + splay), sy * (y + splay), 0.0), (sx * x, sy * y, height)],
            [foot, thick],
            sides,
        )
        for sx, sy in corners
    ]
    if rng.random() < 0.35:
        level = rng.uniform(0.15, 0.5)
        out = splay * (1 - level)  # the legs' shift at that height
        at = [((x + out) * sx, (y + out) * sy, level * height) for sx, sy in corners]
        pieces += [
            tube([at[i], at[j]], 0.5 * thick, 6) for i, j in ((0, 2), (1, 3), (0, 1), (2, 3))
        ]
    return merge(pieces)


def pedestal(rng: np.random.Generator, width: float, depth: float, height: float) -> Mesh:
    """A central column on a disc or on a star of three to five arms."""
    reach = rng.uniform(0.3, 0.5) * min(width, depth)
    column = rng.uniform(0.02, 0.05)
    if rng.random() < 0.5:
        profile = [(reach, 0.0), (reach, 0.02), (column, rng.uniform(0.03, 0.1)), (column, height)]
        return lathe(profile)
    arms, lift = int(rng.integers(3, 6)), rng.uniform(0.03, 0.12)
    arm = tube([(0.0, 0.0, lift), (0.0, -reach, 0.015)], [column, 0.015], 6)
    star = [arm.turned("z", 360 * i / arms) for i in range(arms)]
    return merge([*star, frustum(column, column, height - 0.5 * lift).moved(z=0.5 * lift)])


def side_panels(rng: np.random.Generator, width: float, depth: float, height: float) -> Mesh:
    """Two full-depth boards instead of legs."""
    board = box(rng.uniform(0.02, 0.05), depth * rng.uniform(0.7, 0.95), height)
    x = width * rng.uniform(0.36, 0.47)
    return merge([board.moved(x=-x), board.moved(x=x)])


def platform(
    rng: np.random.Generator,
    size: tuple[float, float, float],
    height: float,
    odds: tuple[float, float, float],
    square: bool = False,
) -> tuple[Mesh, Mesh, float]:
    """A seat or table top of ``size`` (width, depth, thickness) at ``height``, legs, and the fit.

    Unless ``square``, the slab may be rounded or, if nearly as wide as deep, round. ``odds`` are
    those of corner legs, a pedestal and side panels. The fit is the share of width and depth that
    the largest inscribed rectangle of the same shape has: what stands on the slab keeps within.
    """
    width, depth, thickness = size
    powers = [np.inf] if square else [np.inf, 6.0, 3.5]
    if not square and 0.75 < width / depth < 1.33:
        powers += [2.0, 2.0]
    power = rng.choice(powers)
    fit = 0.5 ** (1 / power)
    legs = (corner_legs, pedestal, side_panels)[rng.choice(3, p=odds)]
    slab = prism(outline(width, depth, power), thickness).moved(z=height)
    return slab, legs(rng, fit * width, fit * depth, height + SINK), fit


def backrest(rng: np.random.Generator, width: float, height: float, thickness: float) -> Mesh:
    """A back on z = 0: a board, a frame with upright slats, or posts with cross rails."""
    kind = rng.choice(["board", "slats", "rails"])
    if kind == "board":
        shape = outline(width, height, rng.choice([np.inf, 5.0, 3.0]))
        return prism(shape, thickness).moved(z=-thickness / 2).turned("x", 90).moved(z=height / 2)
    post, rail = max(thickness, 0.025), rng.uniform(0.04, 0.09)
    pieces = [box(post, post, height).moved(x=s * (width - post) / 2) for s in (-1, 1)]
    inner = width - post
    if kind == "slats":
        count = int(rng.integers(3, 7)) if width < 0.9 else int(rng.integers(6, 12))
        x = np.linspace(-inner / 2, inner / 2, count + 2)[1:-1]
        pieces += [box(0.5 * rail, 0.5 * thickness, height - SINK).moved(x=v) for v in x]
        return merge([*pieces, box(inner, 0.8 * thickness, rail).moved(z=height - rail - SINK)])
    levels = np.linspace(0.3 * height, height - rail - SINK, int(rng.integers(1, 4)) + 1)
    return merge(pieces + [box(inner, 0.7 * thickness, rail).moved(z=v) for v in levels])


def armrests(rng: np.random.Generator, width: float, depth: float, seat: float) -> Mesh:
    """Two rests on front posts, running back to the rear edge; ``seat`` is the seat's height."""
    height, thick = rng.uniform(0.15, 0.26), rng.uniform(0.025, 0.05)
    rest = box(thick * 1.4, depth, thick).moved(z=seat + height)
    front = box(thick, thick, height + 2 * SINK).moved(y=-depth / 2 + thick, z=seat - SINK)
    rear = front.moved(y=depth - 2 * thick)
    side = merge([rest, front, rear])
    x = width / 2 - thick
    return merge([side.moved(x=-x), side.moved(x=x)])


def lean(rng: np.random.Generator, back: Mesh, y: float, z: float, most: float = 14.0) -> Mesh:
    """Put a back at (y, z) and tilt it backwards by up to ``most`` degrees."""
    return back.turned("x", -rng.uniform(0.0, most)).moved(y=y, z=z)


def chair(rng: np.random.Generator) -> Pieces:
    """A seat for one with a back; arms on four in ten."""
    width, depth = rng.uniform(0.38, 0.6), rng.uniform(0.38, 0.56)
    height, thick = rng.uniform(0.36, 0.5), rng.uniform(0.025, 0.1)
    arms = rng.random() < 0.4
    seat, legs, fit = platform(rng, (width, depth, thick), height, (0.65, 0.25, 0.1), square=arms)
    back_thick = rng.uniform(0.02, 0.06)
    back = backrest(rng, fit * width * rng.uniform(0.75, 1.0), rng.uniform(0.25, 0.65), back_thick)
    back = lean(rng, back, (fit * depth - back_thick) / 2, height + 0.5 * thick)
    pieces = [("seat", seat), ("back", back), ("legs", legs)]
    if arms:
        pieces.append(("arms", armrests(rng, width, depth * 0.9, height + thick)))
    return pieces


def stool(rng: np.random.Generator) -> Pieces:
    """A seat for one, low or bar-high, at times with a foot ring or a short back."""
    width = rng.uniform(0.3, 0.5)
    depth = width * rng.uniform(0.8, 1.1)
    height, thick = rng.uniform(0.28, 0.8), rng.uniform(0.025, 0.12)
    ringed = rng.random() < 0.2
    odds = (0.0, 1.0, 0.0) if ringed else (0.7, 0.18, 0.12)
    seat, legs, fit = platform(rng, (width, depth, thick), height, odds)
    pieces = [("seat", seat), ("legs", legs)]
    if ringed:
        reach, angle = 0.45 * min(width, depth), np.linspace(0, 2 * np.pi, 21)
        hoop = np.stack([reach * np.cos(angle), reach * np.sin(angle), 0 * angle], axis=1)
        spoke = tube([(-reach, 0, 0), (reach, 0, 0)], 0.01, 6)
        ring = merge([tube(hoop, 0.012, 6), spoke, spoke.turned("z", 90)])
        pieces.append(("footrest", ring.moved(z=rng.uniform(0.3, 0.45) * height)))
    if rng.random() < 0.2:
        back = backrest(rng, fit * width * 0.9, rng.uniform(0.15, 0.32), 0.025)
        pieces.append(("back", lean(rng, back, fit * depth / 2 - 0.03, height + 0.5 * thick)))
    return pieces


def bench(rng: np.random.Generator) -> Pieces:
    """A long seat, with a back on half and arms on a third of them."""
    width, depth = rng.uniform(0.8, 1.8), rng.uniform(0.3, 0.5)
    height, thick = rng.uniform(0.36, 0.5), rng.uniform(0.03, 0.12)
    arms = rng.random() < 0.35
    seat, legs, fit = platform(rng, (width, depth, thick), height, (0.55, 0.0, 0.45), square=arms)
    pieces = [("seat", seat), ("legs", legs)]
    if rng.random() < 0.5:
        back = backrest(rng, fit * width * 0.96, rng.uniform(0.25, 0.5), 0.04)
        pieces.append(("back", lean(rng, back, fit * depth / 2 - 0.02, height + 0.5 * thick)))
    if arms:
        pieces.append(("arms", armrests(rng, width, depth * 0.9, height + thick)))
    return pieces


def sofa(rng: np.random.Generator) -> Pieces:
    """An upholstered seat for one to three on low feet; arms on most."""
    seats = int(rng.integers(1, 4))
    width, depth = 0.62 * seats * rng.uniform(0.9, 1.2), rng.uniform(0.6, 0.9)
    feet, base, back_thick = rng.uniform(0.04, 0.2), rng.uniform(0.12, 0.3), rng.uniform(0.12, 0.24)
    top = feet + base
    back_height = base + rng.uniform(0.25, 0.55)
    back = prism(outline(width, back_height, rng.choice([np.inf, 6.0])), back_thick)
    back = back.turned("x", 90).moved(z=back_height / 2)
    front = depth - back_thick
    cushion = prism(
        outline(width / seats - 0.02, front * 0.95, rng.choice([4.0, 8.0])), rng.uniform(0.07, 0.16)
    )
    x = (np.arange(seats) - (seats - 1) / 2) * width / seats
    radius = rng.uniform(0.02, 0.04)
    foot, x_foot, y_foot = (
        frustum(0.7 * radius, radius, feet + SINK),
        width / 2 - 0.07,
        depth / 2 - 0.07,
    )
    pieces = [
        ("seat", box(width, depth, base).moved(z=feet)),
        ("back", lean(rng, back, depth / 2 - SINK, feet + SINK, 10.0)),
        ("cushions", merge([cushion.moved(x=v, y=-back_thick / 2, z=top - SINK) for v in x])),
        (
            "legs",
            merge([foot.moved(x=u, y=v) for u in (-x_foot, x_foot) for v in (-y_foot, y_foot)]),
        ),
    ]
    if rng.random() < 0.8:
        thick = rng.uniform(0.08, 0.22)
        arm = box(thick, depth * rng.uniform(0.8, 1.0), base + rng.uniform(0.12, 0.28))
        side = (width + thick) / 2 - SINK
        arms = [arm.moved(x=s * side, z=feet + SINK) for s in (-1, 1)]
        pieces.append(("arms", merge(arms)))
    return pieces


def table(rng: np.random.Generator) -> Pieces:
    """A top on legs: coffee table to bar table, square to long, at times with a shelf."""
    width = rng.choice([rng.uniform(0.4, 0.7), rng.uniform(0.7, 1.7)])
    depth = min(width, rng.uniform(0.4, 0.95))
    height, thick = rng.uniform(0.35, 0.85), rng.uniform(0.02, 0.09)
    if rng.random() < 0.25:
        shelf = box(width * 0.96, depth * 0.96, 0.02).moved(z=rng.uniform(0.25, 0.5) * height)
        return [
            ("top", box(width, depth, thick).moved(z=height)),
            ("legs", corner_legs(rng, width, depth, height + SINK, most_splay=0.0)),
            ("shelf", shelf),
        ]
    top, legs, _ = platform(rng, (width, depth, thick), height, (0.55, 0.3, 0.15))
    return [("top", top), ("legs", legs)]


def desk(rng: np.random.Generator) -> Pieces:
    """A work table with drawers to one side, both sides or flat below the top, or only a panel."""
    width, depth = rng.uniform(0.85, 1.7), rng.uniform(0.5, 0.85)
    height, thick = rng.uniform(0.65, 0.8), rng.uniform(0.02, 0.06)
    kind = rng.choice(["left", "right", "both", "flat", "none"], p=[0.2, 0.2, 0.15, 0.3, 0.15])
    top, legs, _ = platform(rng, (width, depth, thick), height, (0.6, 0.0, 0.4), square=True)
    pieces = [("top", top), ("legs", legs)]
    chest_width = rng.uniform(0.22, 0.34) * width
    chest_height = height * rng.choice([rng.uniform(0.3, 0.5), rng.uniform(0.75, 0.97)])
    if kind == "flat":
        drawer = rng.uniform(0.07, 0.14)
        flat = box(width * 0.86, depth * 0.85, drawer)
        pieces.append(("drawers", flat.moved(z=height - drawer + SINK)))
    elif kind != "none":
        chest = box(chest_width, depth * 0.88, chest_height).moved(z=height - chest_height + SINK)
        x = (width - chest_width) / 2 - 0.05
        sides = {"left": (-1,), "right": (1,), "both": (-1, 1)}[kind]
        pieces.append(("drawers", merge([chest.moved(x=s * x) for s in sides])))
    if kind == "none" or rng.random() < 0.35:
        board = height * rng.uniform(0.3, 0.7)
        panel = box(width * 0.9, 0.02, board).moved(y=depth * 0.4, z=height - board + SINK)
        pieces.append(("panel", panel))
    return pieces


BUILDERS = {
    "chair": (chair, ("seat", "back", "legs", "arms")),
    "stool": (stool, ("seat", "legs", "footrest", "back")),
    "bench": (bench, ("seat", "legs", "back", "arms")),
    "sofa": (sofa, ("seat", "back", "cushions", "legs", "arms")),
    "table": (table, ("top", "legs", "shelf")),
    "desk": (desk, ("top", "legs", "drawers", "panel")),
}
