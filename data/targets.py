"""The targets of a student: which views see its points, and the teacher's codes.

Views of a bank and rows of visibility belong together: whatever is left out or exchanged here is so
for both. The alternatives to the stored visibility and to all views are those of an ablation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from data.bank import Bank
from data.rendering.cameras import Cameras, pack_visibility, unpack_visibility
from data.storage import PreparedSplit
from utils.errors import ConfigError
from utils.settings import DistillSettings

FIELDS = ("visibility", "view_codes", "codes")  # of a batch, which come from here
CHUNK = 256  # shapes whose visibility is unpacked at a time


@dataclass(frozen=True)
class Targets:
    """Arrays over the S shapes of a split, V views; None where no batch field asks for them.

    ``visibility`` (S, N, ceil(V/8)) uint8, packed as in ``data.storage``; ``view_codes`` (S, V, D)
    and ``codes`` (S, D) float16.
    """

    num_views: int = 0
    visibility: np.ndarray | None = None
    view_codes: np.ndarray | None = None
    codes: np.ndarray | None = None
    bank: Bank | None = None


def load_targets(
    split: PreparedSplit, points: int, fields: Sequence[str], settings: DistillSettings, seed: int
) -> Targets:
    """Read what ``fields`` name for the first ``points`` points of every shape.

    Args:
        seed: of the random visibility and of the exchange of codes between shapes.

    Raises:
        ConfigError: codes asked for without a bank, or more views than there are.
        DataError: the bank is unreadable or belongs to other data.
    """
    if not set(fields) & set(FIELDS):
        return Targets()
    views = choose_views(split.num_views, settings.views)
    visibility = view_codes = codes = bank = None
    if "visibility" in fields:
        visibility = _find_visibility(split, points, views, settings.visibility, seed)
    if {"view_codes", "codes"} & set(fields):
        if settings.bank is None:
            raise ConfigError(
                "distillation needs the teacher's codes: give distill.bank=FILE of "
                "export_teacher.py, or train the baseline with loss.distill=0"
            )
        bank = Bank(settings.bank)
        bank.check(split)
        rows = bank.locate(split.ids)
        if settings.shuffle_codes:
            rows = rows[_derangement(len(rows), seed)]
        if "view_codes" in fields:
            view_codes = bank.read("view_codes", rows, views)
        if "codes" in fields:
            codes = bank.read("codes", rows)
    return Targets(len(views), visibility, view_codes, codes, bank)


def choose_views(total: int, count: int | None) -> np.ndarray:
    """``count`` of the view numbers 0..total-1, evenly apart, beginning with 0; all for None.

    Raises:
        ConfigError: more than there are.
    """
    count = total if count is None else count
    if count > total:
        raise ConfigError(f"distill.views={count}, and the set has {total} views")
    return np.arange(count) * total // count


def _find_visibility(
    split: PreparedSplit, points: int, views: np.ndarray, source: str, seed: int
) -> np.ndarray:
    """Packed visibility (S, points, ceil(len(views)/8)) of the chosen views."""
    stored = split.visibility()
    clouds = split.points()[:, :points] if source == "hpr" else None
    cameras = Cameras(split.intrinsics[views], split.extrinsics[views], split.image_size)
    chunks = []
    for begin in range(0, len(stored), CHUNK):
        seen = unpack_visibility(stored[begin : begin + CHUNK, :points], split.num_views)
        seen = seen[..., views]  # (S', N, V)
        if source == "all":
            seen = np.ones_like(seen)
        elif source == "random":
            seen = _shuffle_rows(seen, np.random.default_rng([seed, begin, 0x5EE]))
        elif source == "hpr":
            from data.rendering import hidden_points  # SciPy takes half a second

            see = partial(hidden_points.hidden_point_removal, centres=cameras.centres)
            seen = np.stack([see(cloud) for cloud in clouds[begin : begin + CHUNK]])
        chunks.append(pack_visibility(seen))
    return np.concatenate(chunks)


def _shuffle_rows(seen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each view sees as many points as before, but any: (S, N, V) bool."""
    return generator.permuted(seen, axis=1)


def _derangement(count: int, seed: int) -> np.ndarray:
    """A permutation without fixed points: one random cycle."""
    cycle = np.random.default_rng([seed, 0xC0DE]).permutation(count)
    permutation = np.empty(count, dtype=np.int64)
    permutation[cycle] = np.roll(cycle, 1)
    return permutation
