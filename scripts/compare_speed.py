"""How many times faster this project trains students than another commit of it: both in turns.

    git worktree add /tmp/base 0b9957e
    python -m scripts.compare_speed --base /tmp/base                expt/speed_ratio.json
    python -m scripts.compare_speed --base FOLDER --encoders pointnet --device cpu --amp none

Both sides run their own train_student.py on the same prepared set, with distillation from a bank of
random codes, which take the time of real ones. What counts are the shapes per second of the log,
data and augmentation included, of the later half of the epochs: the median of these over all
rounds. Every run is written when it ends, and the same command goes on behind the last. The
arguments that differ between commits are templates: {encoder} is filled in, {bank} and the {runs}
folder too. Those of the base fit commit 0b9957e unless ``--base-arguments`` says otherwise.
"""

from __future__ import annotations

import utils.startup

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np

from data.bank import write_bank
from data.storage import open_split
from scripts.benchmarks.measure import machine
from utils.config import not_negative, positive
from utils.device import choose_device
from utils.errors import ConfigError, RunError, run_main
from utils.files import atomic_path, check_place

ENCODERS = "pointnet,pointnet2_ssg,curvenet"
RECIPES = "scripts/configs/recipes/{encoder}.yaml scripts/configs/sets/psb26.yaml"
OURS = RECIPES + " targets.bank={bank} run.dir={runs}"
BASE = "scripts/configs/psb26/{encoder}.yaml distill.bank={bank} run.runs={runs}"
WIDTH = 512  # of PointMCD's codes
SIDES = ("base", "ours")
HERE = Path(__file__).resolve().parent.parent


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--base", type=Path, required=True, help="a checkout of the other commit")
    add("--base-arguments", default=BASE, help="of its train_student.py: files and overrides")
    add("--arguments", default=OURS, help="of train_student.py here")
    add("--encoders", default=ENCODERS, help=f"with commas between them ({ENCODERS})")
    add("--data", default="PSB26", help="prepared set (PSB26)")
    add("--root", type=Path, default=Path("data"), help="folder of the prepared sets")
    add("--points", type=positive, default=1024)
    add("--batch", type=positive, default=16)
    add("--amp", choices=["none", "bf16"], default="bf16")
    add("--epochs", type=positive, default=6, help="of every run; the later half counts")
    add("--rounds", type=positive, default=2)
    add("--device", default="auto")
    add("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    add("--json", type=Path, default=Path("expt/speed_ratio.json"))
    options = parser.parse_args(arguments)
    options.encoders = [name for name in options.encoders.split(",") if name]
    return options


def commit_of(folder: Path) -> str:
    """The commit of a checkout, or the name of a folder that is none."""
    git = ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "--short=10", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    top, _, commit = done.stdout.strip().partition("\n")
    return commit if done.returncode == 0 and Path(top) == folder else folder.name


def random_bank(path: Path, data: str, root: Path) -> None:
    """A bank for the set, in the first version of the format, which every commit reads."""
    splits = {split: open_split(data, split, root) for split in ("train", "test")}
    ids = [name for split in splits.values() for name in split.ids]
    random = np.random.default_rng(0)
    codes = random.random((len(ids), splits["train"].num_views, WIDTH), np.float32)
    provenance = {
        "data_name": splits["train"].name,
        "data_hash": {name: split.data_hash for name, split in splits.items()},
        "recipe_hash": splits["train"].recipe_hash,
        **dict.fromkeys(("teacher_file", "teacher_hash", "commit"), "random"),
        "teacher_config": {},
    }
    write_bank(path, ids, {"view_codes": codes, "codes": codes.max(axis=1)}, provenance)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 1


def throughputs(
    folder: Path, template: str, encoder: str, places: Path, given: list[str]
) -> list[float]:
    """Shapes per second of every epoch of a run of the project in ``folder``.

    Args:
        template: the arguments of its side. places: of the bank and of what the run leaves.

    Raises:
        RunError: the run failed.
    """
    runs = tempfile.mkdtemp(dir=places)
    filled = {"encoder": encoder, "bank": str(places / "bank.h5"), "runs": runs}
    words = [word.format(**filled) for word in template.split()]
    command = [sys.executable, "train_student.py", *words, *given]
    command += ["run.name=timed", f"run.checkpoints={runs}"]
    with utils.startup.environment_as_found():  # each side sets its own
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise RunError(f"{folder}: train_student.py ended with {done.returncode}: {said[-1]}")
    lines = (Path(runs) / "timed" / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["throughput"] for line in lines]


def speed(content: dict[str, Any], encoder: str, side: str) -> float | None:
    """Shapes per second of a side: the median over rounds and the later halves of their epochs."""
    runs = [run for run in content["runs"] if (run["encoder"], run["side"]) == (encoder, side)]
    counted = [rate for run in runs for rate in run["throughput"][len(run["throughput"]) // 2 :]]
    return median(counted) if counted else None


def table(content: dict[str, Any]) -> str:
    """Markdown: a line of conditions, then a line for every encoder that both sides trained."""
    about = content["about"]
    text = (
        f"{about['device']} ({about['machine']}), PyTorch {about['torch']}; {about['data']}, "
        f"B={about['batch']} N={about['points']}, {about['amp']}; medians of epochs "
        f"{about['epochs'] // 2 + 1} to {about['epochs']}, rounds in turns: {about['rounds']}; "
        f"base: commit {about['base']}, ours: commit {about['commit']}.\n\n"
        "| student | base, shapes per second | ours, shapes per second | times faster |\n"
        "|---|---|---|---|\n"
    )
    for encoder in about["encoders"]:
        base, ours = (speed(content, encoder, side) for side in SIDES)
        if base and ours:
            text += f"| {encoder} | {base:,.0f} | {ours:,.0f} | {ours / base:.2f} |\n"
    return text


def begin(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What the file holds of the same comparison, or an empty one."""
    if path.is_file():
        found = json.loads(path.read_text())
        if found.get("about", {}) | {"date": about["date"]} == about:
            return found
    return {"about": about, "runs": []}


def compare(options: argparse.Namespace, base: Path, content: dict[str, Any]) -> list[str]:
    """Run what ``content`` lacks, one after the other, into it and its file; what failed."""
    given = [f"data.name={options.data}", f"data.root={options.root.resolve()}"]
    given += [f"data.points={options.points}", f"train.batch_size={options.batch}"]
    given += [f"train.amp={options.amp}", f"train.epochs={options.epochs}"]
    given += [f"train.eval_every={options.epochs}", "train.pictures=false"]
    given += [f"run.device={options.device}", f"run.threads={options.threads}"]
    sides = {"base": (base, options.base_arguments), "ours": (HERE, options.arguments)}
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        places = Path(temporary)
        random_bank(places / "bank.h5", options.data, options.root)
        for turn, encoder, side in product(range(options.rounds), options.encoders, SIDES):
            run = {"encoder": encoder, "side": side, "round": turn + 1}
            title = f"{encoder}, {side}, round {turn + 1}"
            if any(run.items() <= one.items() for one in content["runs"]):
                continue
            try:
                rates = throughputs(*sides[side], encoder, places, given)
            except RunError as error:
                failed.append(title)
                print(f"{title} failed: {error}", flush=True)
                continue
            content["runs"].append(run | {"throughput": rates})
            with atomic_path(options.json) as path:
                path.write_text(json.dumps(content, indent=1) + "\n")
            print(f"{title}: {' '.join(f'{rate:,.0f}' for rate in rates)} shapes/s", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    base = options.base.resolve()
    if not (base / "train_student.py").is_file():
        raise ConfigError(f"--base {options.base} has no train_student.py: give a checkout")
    check_place(options.json)
    names = ("encoders", "data", "points", "batch", "amp", "epochs", "rounds", "threads")
    chosen = {name: getattr(options, name) for name in (*names, "arguments", "base_arguments")}
    about = {**machine(choose_device(options.device)), "base": commit_of(base), **chosen}
    content = begin(options.json, about)
    failed = compare(options, base, content)
    print(f"\n{table(content)}")
    if failed:
        raise RunError(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    run_main(main)
