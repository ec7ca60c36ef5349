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
settings help it as well. ``--bare`` has no such settings anywhere. The copy floor is a copy of the
bytes that the projection has to move, timed in the same turns.
``python -m scripts.make_tables --into`` fills the table of scripts/README.md from the JSON.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks import report
from scripts.benchmarks.contest import FULL, QUICK, Sizes
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
from utils.errors import ConfigError, run_main
from utils.files import atomic_path, check_place

ROUNDS, QUICK_ROUNDS = 5, 2
PUBLISHED_NEEDS = 20  # GiB, measured: of a process that keeps what it frees, and of one more
MEASURED_WHEN_QUICK = ("projection",)  # a fresh process for every form takes its time


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(GROUPS), help="groups with commas between them")
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
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
    group: str, sizes: Sizes, device: torch.device, rounds: int, with_memory: bool, bare: bool
) -> list[report.Row]:
    """The rows of a group, one contest after the other."""
    rows = []
    for name, build in GROUPS[group](sizes, device).items():
        print(f"{name} ...", flush=True)
        contest = build()
        # a process of its own takes time to come up: where memory is left out, so is this
        twice = with_memory and device.type == "cpu" and not bare and "published" in contest.forms
        with published_apart(group, name, sizes) if twice else nullcontext() as apart:
            forms: dict[str, dict[str, Any]] = run_contest(contest, rounds, device, apart)
        for form, figures in forms.items():
            needed = with_memory and form in ("published", "ours")
            figures["memory_mib"] = memory(group, name, form, sizes, device) if needed else None
        about = {"group": group, "name": name, "size": contest.size}
        moved = {"shapes": contest.shapes, "bytes_moved": contest.bytes_moved}
        rows.append({**about, **moved, "forms": forms})
    return rows


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    check_groups(options.only)
    if options.json:
        check_place(options.json)
    device = choose_device(options.device)
    check_memory(options, device)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.bare:
        prepare_process(device)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    rows = []
    for group in options.only:
        with_memory = can_measure_memory(device) and (
            not options.quick or group in MEASURED_WHEN_QUICK
        )
        sizes = QUICK if options.quick else FULL
        rows += measure(group, sizes, device, rounds, with_memory, options.bare)
    about = {"rounds": rounds, "quick": options.quick, "bare": options.bare}
    content = {**machine(device), **about, "rows": rows}
    print(f"\n{report.table(content)}")
    if options.json:
        with atomic_path(options.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
