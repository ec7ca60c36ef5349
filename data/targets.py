"""What a student is taught with: which views see its points, and what a bank says of every shape.

Views of a bank and rows of visibility belong together: whatever is left out here is left out of
both. The alternatives to the stored visibility, to all views and to a shape's own row of the bank
are those of ablations and controls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from data.bank import Bank
from data.normalised import NormalisedBank
from data.rendering.cameras import Cameras, pack_visibility, unpack_visibility
from data.storage import PreparedSplit
from data.stores import Reader
from data.subsets import Subset
from utils.config import did_you_mean
from utils.errors import ConfigError, DataError
from utils.settings import TargetSettings

CHUNK = 256  # shapes whose visibility is unpacked at a time
LOGITS = {"logits", "view_logits"}  # arrays that only teachers of classes give


def choose_views(total: int, count: int | None) -> np.ndarray:
    """``count`` of the view numbers 0..total-1, evenly apart, beginning with 0; all for None.

    Raises:
        ConfigError: more than there are.
    """
    count = total if count is None else count
    if count > total:
        raise ConfigError(f"targets.views={count}, and the set has {total} views")
    return np.arange(count) * total // count


def visibility_reader(
    split: PreparedSplit, points: int, views: np.ndarray, source: str, seed: int
) -> Reader:
    """``visibility`` (N, ceil(V/8)) uint8 of the first ``points`` points in ``views`` (V,), packed.

    That of all views as stored is read when it is needed; any other is computed here, for the whole
    split. ``seed``: of the random one.
    """
    if source == "stored" and len(views) == split.num_views:
        read = partial(split.visibility, count=points)
    else:
        read = _find_visibility(split, points, views, source, seed).__getitem__
    return Reader("visibility", (points, -(-len(views) // 8)), np.dtype(np.uint8), read)


def _find_visibility(
    split: PreparedSplit, points: int, views: np.ndarray, source: str, seed: int
) -> np.ndarray:
    """Packed visibility (S, points, ceil(len(views)/8)) of the chosen views."""
    cameras = Cameras(split.intrinsics[views], split.extrinsics[views], split.image_size)
    chunks = []
    for begin in range(0, len(split), CHUNK):
        rows = np.arange(begin, min(begin + CHUNK, len(split)))
        seen = unpack_visibility(split.visibility(rows, points), split.num_views)
        seen = seen[..., views]  # (S', N, V)
        if source == "all":
            seen = np.ones_like(seen)
        elif source == "random":
            seen = _shuffle_rows(seen, np.random.default_rng([seed, begin, 0x5EE]))
        elif source == "hpr":
            from data.rendering import hidden_points  # SciPy takes half a second

            see = partial(hidden_points.hidden_point_removal, centres=cameras.centres)
            seen = np.stack([see(cloud) for cloud in split.points(rows, points)])
        chunks.append(pack_visibility(seen))
    return np.concatenate(chunks)


def _shuffle_rows(seen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each view sees as many points as before, but any: (S, N, V) bool."""
    return generator.permuted(seen, axis=1)


def tested_targets(content: Mapping[str, Any], options: Any) -> TargetSettings | None:
    """Where the codes come from that the network of a checkpoint is tested on, if it reads any: the
    bank of its training, or that of the command's options.

    Raises:
        ConfigError: a bank for a network that reads none.
        DataError: one of another teacher, or with codes of another width.
    """
    if content["build"].get("task") != "generation":
        if options.bank is not None:
            raise ConfigError("--bank is for generators: this network reads no codes")
        return None
    path = options.bank or content["config"]["targets"]["bank"]
    bank, read = Bank(path), content["build"]["code_size"]
    if (width := bank.shape("codes")[-1]) != read:
        raise DataError(
            f"{path} holds codes of {width} channels, {options.checkpoint} reads {read}: give the "
            "bank of its teacher as --bank"
        )
    found, expected = bank.identity, content["training"].get("teacher")
    if expected not in (None, found):
        raise DataError(
            f"{options.checkpoint} was trained on codes of the teacher {expected}, {path} is of "
            f"{found}: give its bank as --bank"
        )
    return TargetSettings(bank=str(path))


def open_bank(
    subset: Subset,
    settings: TargetSettings,
    fields: Iterable[str],
    views: np.ndarray,
    known: Sequence[str],
) -> Bank:
    """The bank that holds ``fields`` of the shapes of a split, with its codes as they are or, by
    ``targets.normalise``, as those of ``subset`` say.

    Args:
        views: (V,) those that teach. known: what batches may hold without a bank, for the message.

    Raises:
        ConfigError: no bank is given, or it has no such arrays.
        DataError: it is unreadable, or belongs to other data or other classes.
    """
    split = subset.split
    names = ", ".join(sorted(fields))
    given = f"the prepared set gives {', '.join(known)}"
    if settings.bank is None:
        raise ConfigError(
            f"batches with {names} were asked for, and {given}. What a teacher says is in its "
            "bank: give targets.bank=FILE of export_teacher.py, or train the baseline "
            "(terms.alignment.weight=0), which reads no teacher"
        )
    bank = Bank(settings.bank)
    absent = sorted(set(fields) - set(bank.names))
    if absent and set(absent) <= LOGITS:
        raise ConfigError(
            f"the bank {settings.bank} has no logits, it has {', '.join(bank.names)}: "
            f"{_no_classes(bank)} knows no classes. Take the bank of a classification teacher, or "
            "set terms.logits.weight=0"
        )
    if absent:
        raise ConfigError(
            f"batches with {absent[0]!r} were asked for, and {given}, the bank {settings.bank} "
            f"{', '.join(bank.names)}{did_you_mean(absent[0], [*known, *bank.names])}"
        )
    bank.check(split)
    if LOGITS & set(fields):
        bank.check_classes(split)
    if settings.normalise == "none":
        return bank
    measured = bank.locate([split.ids[member] for member in subset.members])
    return NormalisedBank(bank.path, fields, measured, views)


def _no_classes(bank: Bank) -> str:
    frozen = "timm" in bank.provenance["teacher_config"]
    return "a frozen network" if frozen else "its teacher"


def bank_readers(
    split: PreparedSplit,
    bank: Bank,
    names: Iterable[str],
    views: np.ndarray,
    shuffle: str,
    seed: int,
) -> list[Reader]:
    """Arrays of a bank, row by row those of the shapes of a split or, by ``targets.shuffle``, of
    others; of arrays over views, ``view_*``, those of ``views``.

    Raises:
        DataError: a shape that is to have the row of another has no other.
    """
    rows = bank.locate(split.ids)
    if shuffle != "none":
        rows = rows[exchange(split, shuffle == "class", seed)]
    readers = []
    for name in names:
        shape, by_view = tuple(bank.shape(name)), name.startswith("view_")
        chosen = None
        if by_view and len(views) < split.num_views:
            chosen, shape = views, (len(views), *shape[1:])
        source = BankRows(bank, name, rows, chosen)
        readers.append(Reader(name, shape, np.dtype(bank.dtype(name)), source, by_view))
    return readers


@dataclass(frozen=True)
class BankRows:
    """An array of a bank by shapes of a split; ``rows`` (S,): where each has its row."""

    bank: Bank
    name: str
    rows: np.ndarray
    views: np.ndarray | None

    def __call__(self, index: np.ndarray) -> np.ndarray:
        return self.bank.read(self.name, self.rows[index], self.views)


def exchange(split: PreparedSplit, within_class: bool, seed: int) -> np.ndarray:
    """For every shape (S,) another one, random: the shapes go round in a cycle, or those of each
    class in one of their own.

    Raises:
        DataError: a shape is alone.
    """
    groups = split.labels if within_class else np.zeros_like(split.labels)
    order = np.random.default_rng([seed, 0xC0DE]).permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]  # group after group
    found, begins, counts = np.unique(groups[order], return_index=True, return_counts=True)
    if counts.min() == 1:
        lonely = found[counts.argmin()]
        what = f"class {split.class_names[lonely]} of {split.name}" if within_class else split.name
        raise DataError(
            f"targets.shuffle={'class' if within_class else 'all'}: {what} has a single shape in "
            f"{split.split}, and no other to take the codes of"
        )
    before = np.roll(order, 1)
    before[begins] = order[begins + counts - 1]
    others = np.empty_like(order)
    others[order] = before
    return others
