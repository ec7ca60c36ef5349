"""What a batch holds of every shape, by name: the words in which data and loss terms agree.

:mod:`data.datasets` lists the names. ``points@1`` is copy 1 of the points: the same cloud with
random changes of its own, and likewise for whatever the changes touch; the name without ``@`` is
copy 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from utils.errors import ConfigError


@dataclass(frozen=True)
class Field:
    """``shape``: of one shape's entry, without the batch axis. ``signed``: whether values may be
    below 0, which the codes of a ReLU are not. ``teacher``: the identity of the one whose bank it
    is from, empty for what the set itself gives."""

    shape: tuple[int, ...]
    signed: bool = True
    teacher: str = field(default="", compare=False)


def holds_codes(name: str) -> bool:
    """Whether a field holds codes of a teacher: ``codes``, ``view_codes`` and what ends so."""
    return name.endswith("codes")


def split_copy(name: str) -> tuple[str, int]:
    """``points@1`` -> (``points``, 1); without a copy's number, 0.

    Raises:
        ConfigError: what stands behind ``@`` is no number above 0.
    """
    base, at, copy = name.partition("@")
    if at and (not copy.isdecimal() or int(copy) == 0):
        raise ConfigError(f"found the field {name}, expected {base}, or {base}@1 for a copy of it")
    return base, int(copy or 0)
