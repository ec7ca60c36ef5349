"""How far a long piece of work is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

EVERY = 30.0  # seconds between two lines of a log


class Progress:
    """Counts towards ``total``, on standard error; a context manager.

    Args:
        what: the noun that is counted, in the plural. done: what was there before. shown: one
            of many processes shows it.
    """

    def __init__(self, total: int, what: str, done: int = 0, shown: bool = True):
        self.total, self.what, self.done = total, what, done
        self.every = EVERY if shown else float("inf")
        self.begun, self.begin = time.monotonic(), done
        self.spoken = self.begun
        self.bar = tqdm(
            total=total, initial=done, desc=what, leave=False, disable=None if shown else True
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, count: int = 1) -> None:
        self.done += count
        self.bar.update(count)
        now = time.monotonic()
        if count and self.bar.disable and now - self.spoken >= self.every:
            self.spoken = now
            seconds = (self.total - self.done) * (now - self.begun) / (self.done - self.begin)
            print(
                f"{self.what}: {self.done:,} of {self.total:,}, "
                f"{tqdm.format_interval(seconds)} left",
                file=sys.stderr,
                flush=True,
            )
