"""Which part of a preparation a process makes: by ``--shard``, or by ``torchrun``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from utils.errors import ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``, counted from 1.

    It takes every ``count``-th shape: neighbours in the order of the ids are of one class and cost
    about the same, so the parts take about as long as one another.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The part's items."""
        return items[self.number - 1 :: self.count]

    @classmethod
    def of(cls, position: int, count: int) -> Shard:
        """The part whose share holds the item at ``position``."""
        return cls(position % count + 1, count)


def read_shard(text: str) -> Shard:
    """``2/8`` is the second of eight; ConfigError for what is no part of a whole."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard is {text!r}, expected i/n with i from 1 to n, such as 2/8")
    return Shard(int(match[1]), int(match[2]))


def launched_shard(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """The part of this process among those of ``torchrun``, None for a process of its own."""
    count = int(environment.get("WORLD_SIZE", "1"))
    return Shard(int(environment["RANK"]) + 1, count) if count > 1 else None
