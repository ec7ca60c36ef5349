"""Speed and memory of this project against the published forms, in one run on the device at hand.

    python -m scripts.bench --quick                          under a minute, small sizes
    python -m scripts.bench --threads 2 --json expt/bench_cpu.json       20 GiB of memory
    python -m scripts.bench --device cuda --json expt/bench_cuda.json
    python -m scripts.bench --only projection,points

The published forms are those of ``scripts/reference``, written plainly by us. Every contest first
checks that both forms give the same, then times them in turns; what the first call loads and
compiles stands in a column of its own. Memory is what a pass needs at its peak beside its inputs
and weights. On a CPU our programs keep freed memory in the process, and the published form takes
two turns: as it comes, in a process with the settings of PyTorch and glibc, and in ours, whose
settings help it as well. ``--bare`` keeps no memory anywhere; threads wait passively all the same,
unless ``OMP_WAIT_POLICY=ACTIVE`` is set. The copy floor is a copy of the bytes that the projection
has to move, timed in the same turns.

Forms are compared in full float32 precision and timed in that of training. A contest that fails
costs its own row, which then says why, and in the end the program leaves with code 1. The JSON is
written after every row; an interrupted run leaves those that it has, and the same command goes on.
``python -m scripts.make_tables --into`` fills the table of scripts/README.md from the JSON.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import json
import sys
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks import report
from scripts.benchmarks.contest import FULL, QUICK, Sizes, attempt
from scripts.benchmarks.measure import (
    GROUPS,
    can_measure_memory,
    machine,
    memory,
    published_apart,
    run_contest,
)
from utils.config import did_you_mean, not_negative, positive
from utils.device import choose_device, free_memory, prepare_process
from utils.errors import ConfigError, DataError, RunError, run_main
from utils.files import atomic_path, check_place

ROUNDS, QUICK_ROUNDS = 5, 2
BATCHES_ON_A_GPU = (16, 24, 64)
PUBLISHED_NEEDS = 20  # GiB, measured: of a process that keeps what it frees, and of one more
INTERRUPTED = 130  # the exit code
MEASURED_WHEN_QUICK = ("projection",)  # a fresh process for every form takes its time


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(GROUPS), help="groups with commas between them")
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    parser.add_argument("--batches", help="of training steps, with commas between them")
    parser.add_argument("--rounds", type=positive, help=f"{ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    parser.add_argument(
        "--bare",
        action="store_true",
        help="without this project's process settings, for which see prepare_process",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name]
    return options


def check_groups(names: list[str]) -> None:
    """Raise ConfigError for a group that there is not, or for none at all."""
    if not names:
        raise ConfigError(f"--only names no group: expected some of {','.join(GROUPS)}")
    for name in names:
        if name not in GROUPS:
            raise ConfigError(
                f"--only {name}: expected some of {','.join(GROUPS)}{did_you_mean(name, GROUPS)}"
            )


def choose_sizes(options: argparse.Namespace, device: torch.device) -> Sizes:
    """How large everything is. Training steps have the batch of everything else, on a GPU in full
    size ``BATCHES_ON_A_GPU``, or ``--batches``.

    Raises:
        ConfigError: ``--batches`` that are not whole numbers above 0.
    """
    sizes = QUICK if options.quick else FULL
    if options.batches is not None:
        words = options.batches.split(",")
        if not all(word.isdecimal() and int(word) > 0 for word in words):
            raise ConfigError(
                f"--batches {options.batches}: expected whole numbers above 0 with commas between "
                "them, such as 16,24,64"
            )
        return replace(sizes, batches=tuple(dict.fromkeys(map(int, words))))
    if device.type == "cuda" and not options.quick:
        return replace(sizes, batches=BATCHES_ON_A_GPU)
    return sizes


def check_memory(options: argparse.Namespace, device: torch.device) -> None:
    """Refuse what would end in a process that the system kills.

    Raises:
        ConfigError: the published projection in full size, and too little free memory for it.
    """
    if device.type != "cpu" or options.quick or options.bare or "projection" not in options.only:
        return
    free = free_memory(device) / 2**30
    if free < PUBLISHED_NEEDS:
        others = ",".join(name for name in options.only if name != "projection")
        raise ConfigError(
            f"found {free:.1f} GiB of free memory, and the published projection takes up to "
            f"{PUBLISHED_NEEDS} here, most of it freed and kept: use --quick, --bare"
            + (f" or --only {others}" if others else "")
        )


def measure(
    group: str,
    sizes: Sizes,
    device: torch.device,
    rounds: int,
    with_memory: bool,
    bare: bool,
    done: Collection[str] = (),
) -> Iterator[report.Row]:
    """The rows of a group without those ``done``, one contest after the other; that of one that
    fails has ``error``."""
    # a process of its own takes time to come up: where memory is left out, so is this
    twice = with_memory and device.type == "cpu" and not bare
    for name in GROUPS[group](sizes, device):
        if name in done:
            continue
        print(f"{name} ...", flush=True)
        row = {"group": group, "name": name}
        figures, error = attempt(partial(times, group, name, sizes, device, rounds, twice))
        if figures is None:
            print(f"    failed: {error}", flush=True)
            yield {**row, "error": error}
            continue
        for form, found in figures["forms"].items():
            found["memory_mib"] = None
            if with_memory and form in ("published", "ours"):
                needed, problem = attempt(partial(memory, group, name, form, sizes, device))
                found |= {"memory_mib": needed} if problem is None else {"memory_error": problem}
        yield {**row, **figures}


def times(
    group: str, name: str, sizes: Sizes, device: torch.device, rounds: int, twice: bool
) -> dict[str, Any]:
    """What a row holds but for the memory; ``twice``: in a process of its own as well."""
    contest = GROUPS[group](sizes, device)[name]()
    twice = twice and "published" in contest.forms
    with published_apart(group, name, sizes) if twice else nullcontext() as apart:
        forms = run_contest(contest, rounds, device, apart)
    about = {"size": contest.size, "shapes": contest.shapes, "bytes_moved": contest.bytes_moved}
    return {**about, "forms": forms}


def measure_all(
    options: argparse.Namespace,
    sizes: Sizes,
    device: torch.device,
    rounds: int,
    rows: list[report.Row],
) -> Iterator[report.Row]:
    """The rows of all groups that were asked for, without those of ``rows``."""
    begun = {group: {row["name"] for row in rows if row["group"] == group} for group in GROUPS}
    for group in options.only:
        with_memory = can_measure_memory(device) and (
            not options.quick or group in MEASURED_WHEN_QUICK
        )
        done = begun[group]
        yield from measure(group, sizes, device, rounds, with_memory, options.bare, done)


def begun_rows(path: Path | None, about: dict[str, Any]) -> list[report.Row]:
    """Of a run that was interrupted, where it had these settings on this machine and commit."""
    try:
        content = report.read(path) if path else {}
    except DataError:  # no such file yet, or of something else
        return []
    same = all(content.get(key) == value for key, value in about.items() if key != "date")
    return [] if content.get("finished", True) or not same else content["rows"]


def save(content: dict[str, Any], path: Path | None) -> None:
    if path:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    check_groups(options.only)
    if options.json:
        check_place(options.json)
    device = choose_device(options.device)
    sizes = choose_sizes(options, device)
    check_memory(options, device)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.bare:
        prepare_process(device)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    about = {"rounds": rounds, "quick": options.quick, "bare": options.bare}
    about = {**machine(device), **about}
    rows = begun_rows(options.json, about)
    content = {**about, "finished": False, "rows": rows}
    try:
        for row in measure_all(options, sizes, device, rounds, list(rows)):
            rows.append(row)
            save(content, options.json)
        content["finished"] = True
        save(content, options.json)
    except KeyboardInterrupt:
        print(f"\n{report.table(content)}")
        where = f": {options.json} has them" if options.json and rows else ""
        print(f"interrupted after {len(rows)} contests{where}", file=sys.stderr)
        return INTERRUPTED
    print(f"\n{report.table(content)}")
    if failed := report.failures(content):
        raise RunError(f"{len(failed)} of {len(rows)} contests failed: {'; '.join(failed)}")
    return 0


if __name__ == "__main__":
    run_main(main)
