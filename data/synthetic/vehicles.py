"""Vehicles among the embedded shapes: car, bus, truck, plane, ship.

Noses point along -y. A van is close to a minibus, a pickup to a flat truck, a box truck to a bus,
and a plane without engines or a ship without mast keeps only its outline. Each function returns
named pieces; the frame is that of ``data.synthetic.primitives``.
"""

from __future__ import annotations

import numpy as np

from data.synthetic.primitives import Mesh, Pieces, beam, box, frustum, lathe, loft, merge, tube


def wheels(axles: list[float], radius: float, track: float, width: float) -> Mesh:
    """Pairs of wheels on axles at the given y, standing on z = 0; ``track`` is the outer width."""
    wheel = frustum(radius, radius, width).turned("y", 90).moved(z=radius)
    reach = track / 2 - 0.5 * width
    rod = tube([(-reach, 0.0, radius), (reach, 0.0, radius)], 0.2 * radius, 6)
    axle = merge([rod, wheel.moved(x=-track / 2), wheel.moved(x=track / 2 - width)])
    return merge([axle.moved(y=y) for y in axles])


def car(rng: np.random.Generator) -> Pieces:
    """A saloon, hatchback, van or pickup."""
    kind = rng.choice(["saloon", "hatch", "van", "pickup"], p=[0.25, 0.2, 0.3, 0.25])
    length, width = rng.uniform(3.6, 5.2), rng.uniform(1.6, 2.0)
    radius, clearance = rng.uniform(0.28, 0.4), rng.uniform(0.18, 0.35)
    belt = clearance + rng.uniform(0.5, 0.75)
    hood = belt - rng.uniform(0.0, 0.2)
    half = length / 2
    windscreen = -half + length * {"van": 0.12, "pickup": 0.3}.get(kind, rng.uniform(0.2, 0.34))
    rear = {"saloon": 0.82, "hatch": 0.97, "van": 0.98, "pickup": 0.6}[kind] * length - half
    roof = belt + (rng.uniform(0.7, 1.3) if kind == "van" else rng.uniform(0.4, 0.6))
    slope = rng.uniform(0.3, 0.8)
    back_slope = rng.uniform(0.3, 0.7) if kind == "saloon" else rng.uniform(0.05, 0.4)
    low = clearance + 0.1
    trunk = belt - (rng.uniform(0.1, 0.35) if kind == "pickup" else rng.uniform(0.0, 0.1))
    body = beam(
        [
            (-half, 0.86 * width, 0.82 * width, low, hood - 0.15),
            (-half + 0.2, width, 0.94 * width, clearance, hood),
            (windscreen, width, 0.96 * width, clearance, belt),
            (rear - 0.05, width, 0.96 * width, clearance, belt),
            (rear, width, 0.96 * width, clearance, trunk),
            (half, 0.9 * width, 0.88 * width, low, trunk - 0.05),
        ]
    )
    top = rng.uniform(0.78, 0.92) * width
    cabin = beam(
        [
            (windscreen, 0.93 * width, 0.93 * width, belt - 0.03, belt),
            (windscreen + slope, 0.94 * width, top, belt - 0.03, roof),
            (rear - back_slope - 0.05, 0.94 * width, top, belt - 0.03, roof),
            (rear - 0.04, 0.92 * width, 0.92 * width, belt - 0.03, belt),
        ]
    )
    axles = [-half + rng.uniform(0.16, 0.22) * length, half - rng.uniform(0.16, 0.24) * length]
    return [
        ("body", body),
        ("cabin", cabin),
        ("wheels", wheels(axles, radius, width + 0.02, 0.22)),
    ]


def bus(rng: np.random.Generator) -> Pieces:
    """A minibus to a long coach, flat or with a short nose, with two or three axles."""
    length, width = rng.uniform(4.4, 9.0), rng.uniform(1.9, 2.5)
    radius, floor = rng.uniform(0.33, 0.48), rng.uniform(0.25, 0.45)
    roof, half = rng.uniform(2.0, 3.2), length / 2
    nose = rng.choice([0.0, 0.0, rng.uniform(0.4, 0.9)])
    sill = floor + rng.uniform(0.6, 1.0)
    rake, taper = rng.uniform(0.02, 0.5), rng.uniform(0.88, 1.0)
    stations = [
        (-half, width * 0.95, width * 0.95, floor, sill),
        (-half + nose + 0.03, width, width * (0.96 if nose else 0.98), floor, sill + 0.1),
        (-half + nose + 0.03 + rake, width, width * taper, floor, roof - 0.05),
        (half - 0.1, width, width * taper, floor, roof),
        (half, width * 0.97, width * taper * 0.97, floor + 0.1, roof - 0.1),
    ]
    axles = [-half + rng.uniform(0.14, 0.25) * length, half - rng.uniform(0.15, 0.28) * length]
    if length > 8 and rng.random() < 0.5:
        axles.append(axles[-1] - 2.3 * radius)
    pieces = [
        ("body", beam(stations)),
        ("wheels", wheels(axles, radius, width + 0.02, 0.28)),
    ]
    if rng.random() < 0.35:
        unit = box(0.6 * width, rng.uniform(0.15, 0.5) * length, rng.uniform(0.12, 0.3))
        y = rng.uniform(-0.05, 0.15) * length
        pieces.append(("roof", unit.moved(y=y, z=roof - 0.08)))
    return pieces


def truck(rng: np.random.Generator) -> Pieces:
    """A cab, flat or with a bonnet, and a box, a tank or an open bed behind it."""
    length, width = rng.uniform(4.6, 9.5), rng.uniform(1.8, 2.5)
    radius, frame = rng.uniform(0.33, 0.5), rng.uniform(0.5, 0.75)
    roof, half = rng.uniform(1.8, 2.8), length / 2
    bonnet = rng.choice([0.0, rng.uniform(0.5, 1.2)])
    cab_end = -half + bonnet + rng.uniform(1.1, 1.8)
    sill = frame + rng.uniform(0.45, 0.7)
    cab = beam(
        [
            (-half, 0.9 * width, 0.9 * width, frame - 0.2, sill - 0.1),
            (-half + bonnet + 0.03, 0.95 * width, 0.93 * width, frame - 0.2, sill),
            (-half + bonnet + rng.uniform(0.1, 0.6), 0.95 * width, 0.9 * width, frame - 0.2, roof),
            (cab_end, 0.95 * width, 0.9 * width, frame - 0.2, roof),
        ]
    )
    gap = rng.uniform(-0.02, 0.3)
    room = half - cab_end - gap
    kind = rng.choice(["box", "flat", "tank"], p=[0.5, 0.3, 0.2])
    if kind == "box":
        cargo = box(width, room, rng.uniform(0.8, 1.25) * roof - frame + 0.1)
    elif kind == "tank":
        barrel = rng.uniform(0.4, 0.5) * width
        cargo = frustum(barrel, barrel, room).turned("x", 90)
        cargo = cargo.scaled(z=rng.uniform(0.7, 1.0)).moved(y=room / 2, z=0.65 * barrel)
    else:
        wall, side = 0.08, rng.uniform(0.15, 0.7)
        plank = box(wall, room, side)
        gate = box(width - wall, wall, side)
        cargo = merge(
            [box(width, room, 0.12)]
            + [plank.moved(x=s * (width - wall) / 2, z=0.1) for s in (-1, 1)]
            + [gate.moved(y=s * (room - wall) / 2, z=0.1) for s in (-1, 1)]
        )
    hub = 0.9 * radius  # the chassis reaches down to the axles
    chassis = box(0.5 * width, length - 0.4, frame + 0.01 - hub).moved(y=0.15, z=hub)
    axles = [-half + rng.uniform(0.5, 0.9), half - rng.uniform(0.15, 0.25) * length]
    if length > 6.5 and rng.random() < 0.6:
        axles.append(axles[-1] + 2.2 * radius)
    return [
        ("cab", cab),
        ("cargo", cargo.moved(y=half - room / 2, z=frame)),
        ("chassis", chassis),
        ("wheels", wheels(axles, radius, width, 0.3)),
    ]


def wing(span: float, root: float, tip: float, sweep: float, thickness: float) -> Mesh:
    """One half wing along +x from its root chord at y = 0 to a tip moved back by ``sweep``."""
    section = np.array([(-0.5, 0.0), (-0.2, -0.5), (0.5, 0.0), (-0.2, 0.5)])  # (y, z) of chord 1
    rings = np.zeros((2, 4, 3))
    rings[:, :, 0] = np.array([[0.0], [span]])
    rings[:, :, 1] = np.array([[root], [tip]]) * section[:, 0] + np.array([[0.0], [sweep]])
    rings[:, :, 2] = thickness * np.array([[1.0], [tip / root]]) * section[:, 1]
    return loft(rings)


def pair(half: Mesh, degrees: float = 0.0) -> Mesh:
    """A wing or oar on the +x side and its mirror image, both raised by a dihedral angle."""
    right = half.turned("y", -degrees)
    left = Mesh(right.vertices * (-1.0, 1.0, 1.0), right.faces[:, ::-1])
    return merge([right, left])


def plane(rng: np.random.Generator) -> Pieces:
    """An airliner, a jet with engines at the tail, a propeller plane or a glider."""
    length, radius = 10.0, rng.uniform(0.4, 0.75)
    half = length / 2
    t = np.array([0.0, 0.02, 0.06, 0.14, 0.6, 0.8, 0.95, 1.0])
    bulge = np.array([0.0, 0.35, 0.7, 1.0, 1.0, 0.7, rng.uniform(0.2, 0.4), 0.0])
    hull = lathe(np.stack([radius * bulge, t * length - half], axis=1), 16)
    pieces = [("fuselage", hull.turned("x", -90))]
    span, root = rng.uniform(3.2, 6.5), rng.uniform(1.3, 2.6)
    sweep, tip = rng.uniform(0.0, 0.6) * span, root * rng.uniform(0.3, 0.9)
    height, y = rng.choice([-0.5, 0.0, 0.8]) * radius, rng.uniform(-1.2, 0.3)
    dihedral = rng.uniform(0.0, 7.0)
    main = pair(wing(span, root, tip, sweep, 0.12 * root), dihedral)
    pieces.append(("wings", main.moved(y=y, z=height)))
    fin = wing(rng.uniform(1.3, 2.2), rng.uniform(1.1, 1.6), 0.7, rng.uniform(0.3, 1.1), 0.14)
    fin_height, fin_sweep = fin.vertices[:, 0].max(), fin.vertices[:, 1].max() - 0.35
    tail = pair(wing(rng.uniform(1.2, 2.2), 1.0, 0.6, rng.uniform(0.1, 0.8), 0.1))
    high = rng.random() < 0.3
    tail = tail.moved(y=fin_sweep if high else 0.1, z=fin_height - 0.03 if high else 0.0)
    pieces.append(("tail", merge([fin.turned("y", -90), tail]).moved(y=half - 1.0)))
    kind = rng.choice(["wing", "rear", "nose", "none"], p=[0.45, 0.2, 0.2, 0.15])
    size = rng.uniform(0.2, 0.36)
    pod = lathe([(0.7 * size, 0.0), (size, 0.3), (size, 1.0), (0.5 * size, 1.5)], 12)
    pod = pod.turned("x", -90).moved(y=-0.9)
    if kind == "wing":
        x = span * (rng.choice([0.35, 0.45]) + 0.3 * np.arange(rng.integers(1, 3)))
        rise = x * np.tan(np.radians(dihedral)) + height - 0.9 * size
        places = np.stack([x, y + x * sweep / span, rise], axis=1)
    elif kind == "rear":
        places = np.array([(0.75 * radius + size, 0.24 * length, 0.2)])
    if kind in ("wing", "rear"):
        pods = [pod.moved(side * x, y, z) for x, y, z in places for side in (-1, 1)]
        pieces.append(("engines", merge(pods)))
    elif kind == "nose":
        blade = box(rng.uniform(1.6, 2.6), 0.05, 0.16).moved(y=-half + 0.02, z=-0.08)
        pieces.append(("engines", merge([blade, blade.turned("y", 90)])))
    return pieces


def sail_rig(rng: np.random.Generator, half: float, deck: float) -> Pieces:
    """A mast amid and one sail behind it; the hull is 2 ``half`` long."""
    tall, y = rng.uniform(5.0, 11.0), rng.uniform(-0.2, 0.05) * half
    mast = frustum(0.12, 0.06, tall).moved(y=y, z=deck - 0.3)
    low, top = deck + rng.uniform(0.5, 1.0), deck + tall - 0.5
    boom = rng.uniform(0.4, 0.85) * (half - y)
    rings = np.empty((2, 4, 3))
    rings[..., 0] = [[-0.03], [0.03]]
    rings[..., 1:] = [(y, low), (y + boom, low), (y + 0.05, top), (y, top)]
    return [("mast", mast), ("sail", loft(rings))]


def deckhouse(
    rng: np.random.Generator, half: float, width: float, deck: float, floors: int, funnel: bool
) -> Pieces:
    """Storeys that shrink upwards, and a funnel on the last."""
    house, tall = rng.uniform(0.24, 0.8) * half, rng.uniform(0.6, 1.0)
    y = rng.choice([-0.1, 0.2, 0.45]) * half
    storeys = [
        box(0.7 * width * 0.85**i, house * 0.8**i, tall + 0.02).moved(z=i * tall)
        for i in range(floors)
    ]
    pieces = [("cabin", merge(storeys).moved(y=y, z=deck - 0.1))]
    if funnel:
        radius = rng.uniform(0.15, 0.35)
        stack = frustum(radius, 0.9 * radius, rng.uniform(0.8, 1.8))
        pieces.append(("mast", stack.moved(y=y + 0.1 * house, z=deck + floors * tall - 0.15)))
    return pieces


def ship(rng: np.random.Generator) -> Pieces:
    """A rowing boat, a sailing boat, or a motor ship with a deckhouse fore, amid or aft."""
    length, width, depth = 10.0, rng.uniform(1.6, 3.6), rng.uniform(0.9, 1.9)
    half, keel = length / 2, rng.uniform(0.25, 0.85)
    rise, stern = rng.uniform(0.1, 0.9), rng.uniform(0.5, 1.0)
    hull = beam(
        [
            (-half, 0.02, 0.06, 0.55 * depth, depth + rise),
            (-0.6 * half, 0.35 * keel * width, 0.7 * width, 0.1 * depth, depth + 0.4 * rise),
            (-0.15 * half, keel * width, width, 0.0, depth),
            (0.6 * half, keel * width, width, 0.0, depth),
            (half, 0.8 * keel * stern * width, stern * width, 0.2 * depth, depth + 0.2 * rise),
        ]
    )
    pieces = [("hull", hull)]
    kind = rng.choice(["open", "sail", "motor"], p=[0.2, 0.3, 0.5])
    deck = 0.97 * depth
    if kind == "motor":
        floors, funnel = int(rng.integers(1, 4)), rng.random() < 0.6
        pieces += deckhouse(rng, half, width, deck, floors, funnel)
    elif kind == "sail":
        pieces += sail_rig(rng, half, deck)
        if rng.random() < 0.4:
            pieces += deckhouse(rng, half, width, deck, floors=1, funnel=False)
    else:
        thwart = box(0.9 * width, 0.4, 0.1).moved(z=1.05 * depth - 0.1)
        inner, outer = (0.5 * width, 0.0, depth), (1.1 * width, -1.5, depth + 0.2)
        oar = tube([inner, outer], 0.06)
        pieces.append(("oars", merge([thwart, pair(oar)])))
    return pieces


BUILDERS = {
    "car": (car, ("body", "cabin", "wheels")),
    "bus": (bus, ("body", "wheels", "roof")),
    "truck": (truck, ("cab", "cargo", "chassis", "wheels")),
    "plane": (plane, ("fuselage", "wings", "tail", "engines")),
    "ship": (ship, ("hull", "cabin", "mast", "sail", "oars")),
}
