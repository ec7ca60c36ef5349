"""Options of ``test.py`` for more than one pass: votes, and probes of features."""

from __future__ import annotations

import argparse

from utils.config import not_negative, positive
from utils.errors import ConfigError


def add_votes(parser: argparse.ArgumentParser) -> None:
    """``--vote mean N``, see :mod:`utils.tasks.voting`."""
    votes = parser.add_argument_group("votes over scaled copies of each cloud")
    votes.add_argument(
        "--vote", nargs=2, metavar=("mean", "N"), help="report the mean over N votes of 10 passes"
    )
    votes.add_argument("--vote-seed", type=not_negative, help="of the scales (0)")


def add_probes(parser: argparse.ArgumentParser) -> None:
    """``--probe``, see :mod:`utils.probe`."""
    probes = parser.add_argument_group("probes of frozen features, on the train and test splits")
    probes.add_argument("--probe", choices=["svm", "fewshot"])
    probes.add_argument(
        "--random-weights",
        type=not_negative,
        metavar="SEED",
        help="control: the same network as it is before training",
    )
    probes.add_argument("--ways", type=positive, default=5, help="classes of an episode (5)")
    probes.add_argument("--shots", type=positive, default=10, help="training shapes of each (10)")
    probes.add_argument("--queries", type=positive, default=20, help="test shapes of each (20)")
    probes.add_argument("--repeats", type=positive, default=10, help="episodes (10)")


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that exclude each other, and put the number of votes into ``options.vote``.

    Raises:
        ConfigError: a vote that cannot be read, or of what is no test of a network.
    """
    if options.random_weights is not None and not options.probe:
        parser.error("--random-weights is the control of a probe: give --probe too")
    if options.category is not None and not options.cloud:
        parser.error("--category is the class of a --cloud")
    if options.ways < 2:
        parser.error("--ways must be 2 or more: one class leaves nothing to tell apart")
    if options.probe and (options.cloud or options.split != "test"):
        parser.error("--probe reads the train and the test split: no --cloud, no --split")
    if options.vote is None and options.vote_seed is not None:
        parser.error("--vote-seed draws the scales of --vote: give it too")
    options.vote_seed = options.vote_seed or 0
    if options.vote is None:
        return
    what, count = options.vote
    if what != "mean" or not count.isdecimal() or int(count) == 0:
        raise ConfigError(
            f"found --vote {what} {count}, expected --vote mean N with N of 1 or more: what is "
            "reported is the mean of N votes"
        )
    if options.probe or options.cloud:
        raise ConfigError("--vote tests how a student classifies a split: no --probe, no --cloud")
    options.vote = int(count)
