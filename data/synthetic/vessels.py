"""Vessels and lamps among the embedded shapes: mug, vase, bottle, bowl, lamp.

All are turned on a lathe from profiles with overlapping proportions: a vase may be as plain as a
cup and carry handles, a bottle as round as a vase, a bowl as deep as a mug, and a table lamp
stands on what could be a vase. Each function returns named pieces; the frame is that of
``data.synthetic.primitives``.
"""

from __future__ import annotations

import numpy as np

from data.synthetic.primitives import (
    Mesh,
    Pieces,
    box,
    ellipsoid,
    frustum,
    lathe,
    merge,
    select,
    smooth,
    tube,
    vessel,
)


def bands(mesh: Mesh, names: tuple[str, ...], heights: tuple[float, ...]) -> Pieces:
    """Cut a lathe's mesh between its rings into pieces, named from the lowest to the highest.

    ``heights`` holds the upper end of every band but the last.
    """
    lower_ring = mesh.vertices[mesh.faces, 2].min(axis=1)  # the same for both halves of a quad
    band = np.searchsorted(heights, lower_ring, side="right")
    return [(name, select(mesh, band == i)) for i, name in enumerate(names) if (band == i).any()]


def handle(
    rng: np.random.Generator, profile: np.ndarray, low: float, high: float, reach: float
) -> Mesh:
    """A handle on the +x side that leaves the profile at height ``low`` and ``high``.

    ``profile`` (P, 2) is the outside as (radius, z) rows, ``reach`` the handle's free depth.
    """
    share = np.linspace(0.0, 1.0, 11)
    z = low + share * (high - low)
    start, end = np.interp([low, high], profile[:, 1], profile[:, 0])
    bow = np.sin(np.pi * share) ** rng.choice([0.4, 0.6, 1.0])
    x = start + share * (end - start) + reach * bow
    thick = rng.uniform(0.06, 0.11) * (high - low) + 0.004
    x[[0, -1]] -= 0.5 * thick
    return tube(np.stack([x, np.zeros_like(x), z], axis=1), thick, 8)


def mug(rng: np.random.Generator) -> Pieces:
    """A cup with straight, flaring or bulging sides; a handle on most."""
    height = 1.0
    rim = height * rng.uniform(0.3, 0.7)
    foot = rim * rng.uniform(0.5, 1.1)
    belly = (rim + foot) / 2 * rng.uniform(0.9, 1.2)
    profile = smooth([(foot, 0.0), (belly, rng.uniform(0.35, 0.65)), (rim, height)], 10)
    pieces = [("body", vessel(profile, rng.uniform(0.03, 0.07)))]
    if rng.random() < 0.7:
        low, high = rng.uniform(0.12, 0.35), rng.uniform(0.65, 0.92)
        grip = handle(rng, profile, low, high, rng.uniform(0.15, 0.35))
        pieces.append(("handle", grip.turned("z", rng.choice([0, 90, -90, 180]))))
    return pieces


def vase(rng: np.random.Generator) -> Pieces:
    """A foot, a belly, a neck and a lip of any widths; none, one or two handles."""
    belly = rng.uniform(0.16, 0.5)
    foot = belly * rng.uniform(0.45, 1.0)
    neck = belly * rng.uniform(0.3, 1.05)
    lip = neck * rng.uniform(1.0, 1.35)
    waist, belt, throat = (rng.uniform(*span) for span in ((0.06, 0.2), (0.3, 0.6), (0.7, 0.92)))
    stem = foot * rng.uniform(0.65, 1.1)
    profile = smooth([(foot, 0.0), (stem, waist), (belly, belt), (neck, throat), (lip, 1.0)], 16)
    body = vessel(profile, rng.uniform(0.02, 0.05))
    pieces = bands(body, ("foot", "body", "neck"), (waist, throat - 0.05))
    grips = int(rng.choice([0, 1, 2], p=[0.65, 0.15, 0.2]))
    if grips:
        grip = handle(rng, profile, belt, rng.uniform(throat, 0.97), rng.uniform(0.08, 0.25))
        around = rng.choice([0, 90])
        both = [grip.turned("z", around + 180 * i) for i in range(grips)]
        pieces.append(("handles", merge(both)))
    return pieces


def bottle(rng: np.random.Generator) -> Pieces:
    """A straight or bellied body, a shoulder and a neck; stoppered or open."""
    radius = rng.uniform(0.14, 0.4)
    neck = radius * rng.uniform(0.3, 0.85)
    shoulder, throat = rng.uniform(0.35, 0.65), rng.uniform(0.7, 0.88)
    foot, waist = radius * rng.uniform(0.7, 1.0), radius * rng.uniform(0.85, 1.08)
    rows = [
        (foot, 0.0),
        (radius, 0.08),
        (waist, 0.6 * shoulder),
        (radius, shoulder),
        (neck, throat),
        (neck * rng.uniform(1.0, 1.3), 1.0),
    ]
    profile = smooth(rows, 16)
    body = vessel(profile, 0.12 * radius)
    pieces = bands(body, ("body", "neck"), (throat - 0.04,))
    if rng.random() < 0.45:
        cap, tall = profile[-1, 0] * rng.uniform(0.95, 1.25), rng.uniform(0.05, 0.14)
        pieces.append(("cap", frustum(cap, cap * rng.uniform(0.8, 1.0), tall).moved(z=0.985)))
    return pieces


def bowl(rng: np.random.Generator) -> Pieces:
    """A wide open vessel, shallow to deep; a foot ring on most, two ears on some."""
    rim, height = 1.0, rng.uniform(0.5, 2.0)
    foot = rng.uniform(0.35, 0.8)
    base = rng.choice([0.0, rng.uniform(0.06, 0.16)])
    t = np.linspace(0.0, 1.0, 12)
    curve = foot + (rim - foot) * t ** rng.uniform(0.4, 0.8)
    profile = np.stack([curve, base + t * height], axis=1)
    if rng.random() < 0.3:
        profile = np.concatenate([profile, [(rim * rng.uniform(1.05, 1.15), base + 1.03 * height)]])
    body = vessel(profile - (0.0, base), rng.uniform(0.04, 0.08)).moved(z=base)
    pieces = [("body", body)]
    if base:
        ring = frustum(foot * rng.uniform(0.8, 1.1), foot * 0.95, base + 0.01)
        pieces.append(("foot", ring))
    if rng.random() < 0.25:
        low, high = base + 0.55 * height, base + 0.9 * height
        ear = handle(rng, profile, low, high, rng.uniform(0.12, 0.3))
        pieces.append(("handles", merge([ear, ear.turned("z", 180)])))
    return pieces


def lamp(rng: np.random.Generator) -> Pieces:
    """A table lamp, a floor lamp or a desk lamp with a bent arm."""
    kind = rng.choice(["table", "floor", "desk"], p=[0.45, 0.3, 0.25])
    if kind == "desk":
        return desk_lamp(rng)
    height = 1.0 if kind == "table" else rng.uniform(1.6, 2.6)
    top = rng.uniform(0.12, 0.34)
    bottom, tall = top * rng.uniform(1.0, 2.0), rng.uniform(0.28, 0.5)
    shade = vessel(np.array([(top, 0.0), (bottom, tall)]), 0.02).turned("x", 180)
    if kind == "table" and rng.random() < 0.6:
        belly, foot, neck = rng.uniform(0.1, 0.3), rng.uniform(0.08, 0.2), rng.uniform(0.03, 0.08)
        body = smooth([(foot, 0.0), (belly, rng.uniform(0.15, 0.35)), (neck, 0.55)], 10)
        base = lathe(body)
        stem = 0.54
    else:
        disc = rng.uniform(0.12, 0.3)
        stem = rng.uniform(0.02, 0.05)
        base = frustum(disc, disc * rng.uniform(0.4, 1.0), stem + 0.01)
    pole = rng.uniform(0.012, 0.03)
    return [
        ("base", base),
        ("pole", frustum(pole, pole, height - stem - 0.01).moved(z=stem)),
        ("shade", shade.moved(z=height)),
    ]


def desk_lamp(rng: np.random.Generator) -> Pieces:
    """A foot, an arm of two rods and a conical or round head."""
    disc, elbow = rng.uniform(0.14, 0.28), rng.uniform(0.45, 0.75)
    back, reach = rng.uniform(-0.05, 0.3), rng.uniform(0.25, 0.6)
    tip = elbow + rng.uniform(-0.05, 0.3)
    path = [(0.0, 0.0, 0.02), (0.0, back, elbow), (0.0, back - reach, tip)]
    rod = rng.uniform(0.012, 0.03)
    if rng.random() < 0.6:
        head = vessel(
            np.array([(0.05, 0.0), (rng.uniform(0.1, 0.2), rng.uniform(0.15, 0.3))]), 0.015
        )
        head = head.turned("x", 180 - rng.uniform(0, 40))
    else:
        head = ellipsoid(*rng.uniform(0.18, 0.34, 3))
    foot = (
        frustum(disc, 0.8 * disc, 0.03) if rng.random() < 0.7 else box(2 * disc, disc * 1.5, 0.03)
    )
    arm = merge(
        [tube(path[:2], rod), tube(path[1:], rod), ellipsoid(*[2.6 * rod] * 3).moved(*path[1])]
    )
    return [("base", foot), ("pole", arm), ("shade", head.moved(*path[2]))]


BUILDERS = {
    "mug": (mug, ("body", "handle")),
    "vase": (vase, ("body", "foot", "neck", "handles")),
    "bottle": (bottle, ("body", "neck", "cap")),
    "bowl": (bowl, ("body", "foot", "handles")),
    "lamp": (lamp, ("base", "pole", "shade")),
}
