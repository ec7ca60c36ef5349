"""Export what a teacher knows of every shape by its id: view codes, shape code, logits of classes.

    python export_teacher.py ckpt/teacher/RUN.pth [--data NAME] [--output expt/teacher/RUN.h5]
    python export_teacher.py --timm NAME --data NAME [--weights FILE]

The teacher is a checkpoint of ``train_teacher.py``, or a network of timm as it comes, which gives
its own features. One forward pass over train and test, in evaluation mode; no label is read. The
file carries its provenance; students refuse it if it does not fit their data. Under ``torchrun``
the shapes are shared out.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.bank import Bank, write_bank
from data.datasets import ShapeSet
from data.storage import open_split
from data.subsets import Subset
from models.loading import build_model
from utils.checkpoint import fingerprint, read_model
from utils.config import differences, not_negative, positive
from utils.device import choose_device, prepare_process
from utils.distributed import barrier, is_main, process_group, world_size
from utils.engine import predict
from utils.errors import ConfigError, DataError, run_main
from utils.files import check_place
from utils.progress import Progress
from utils.run import source_commit
from utils.settings import DataSettings

# of the provenance; later code may export the same teacher
BY_CODE = ("commit", "timm_version", "classes")
PRECISIONS = ("float32", "float16", "bfloat16")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("checkpoint", nargs="?", help="of train_teacher.py")
    add("--timm", metavar="NAME", help="instead of it, a network of timm as it comes")
    add("--weights", help="of --timm: FILE or none (random); default: timm's release")
    add("--size", type=positive, help="of --timm: pixels of its input; default: its release's")
    add(
        "--precision", choices=PRECISIONS, help="of --timm; default: float16 on a GPU, else float32"
    )
    add("--data", help="prepared set; default: the one the teacher was trained on")
    add("--root", help="folder of the prepared sets; default: as in training")
    add("--output", type=Path, help="default: a file named after the teacher in expt/teacher")
    add("--overwrite", action="store_true", help="replace a bank of another teacher")
    add("--batch-size", type=positive, default=16, help="shapes per step (16)")
    add("--workers", type=not_negative, default=0, help="decode views (0)")
    add("--device", default="auto")
    add("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    options = parser.parse_args(arguments)
    if (options.checkpoint is None) == (options.timm is None):
        found = f"{options.checkpoint} and --timm" if options.timm else "neither"
        raise ConfigError(f"found {found}: give a checkpoint of train_teacher.py or --timm NAME")
    if options.timm and options.data is None:
        raise ConfigError("--timm needs --data NAME, the prepared set whose views it is to see")
    if not options.timm and (options.weights or options.size or options.precision):
        raise ConfigError("--weights, --size and --precision are for --timm, not for a checkpoint")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = choose_device(options.device)
    prepare_process(device, options.threads)
    with process_group(device):
        export(options, device)


def export(options: argparse.Namespace, device: torch.device) -> None:
    content = None if options.timm else read_model(options.checkpoint, "teacher")
    if content and content["build"].get("task") == "generation":
        raise ConfigError(
            f"{options.checkpoint} makes clouds of codes and sees no views: give the teacher that "
            "the codes are of"
        )
    data = content["config"]["data"] if content else {"root": "data", "size": None}
    name, root = options.data or data["name"], options.root or data["root"]
    splits = {split: open_split(name, split, root) for split in ("train", "test")}
    network = re.sub(r"[^a-zA-Z0-9_-]+", "_", (options.timm or "").removeprefix("timm/"))
    stem = Path(options.checkpoint).stem if content else f"{Path(name).name}_timm_{network}"
    output = options.output or Path("expt/teacher") / f"{stem}.h5"
    check_place(output)
    half = options.precision or ("float16" if device.type == "cuda" else "float32")
    precision = "float32" if content else half
    teacher, provenance = open_teacher(options, content, precision)
    provenance |= {
        "data_name": splits["train"].name,
        "data_hash": {name: split.data_hash for name, split in splits.items()},
        "recipe_hash": splits["train"].recipe_hash,
        "commit": source_commit(),
    }
    if _already_there(output, provenance, options.overwrite):
        return
    ids = [name for split in splits.values() for name in split.ids]
    rows: list[dict[str, np.ndarray]] = []
    teacher = teacher.to(device)
    settings = DataSettings(
        name=name, size=data["size"], workers=options.workers, cache_on_device=False
    )
    with Progress(len(ids), "shapes exported", shown=is_main()) as progress:

        def compute(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            progress.update(len(batch["index"]) * world_size())
            amp = precision != "float32"
            with torch.autocast(device.type, getattr(torch, precision), enabled=amp):
                return teacher(batch["views"]).arrays()

        for split in splits.values():
            views = ShapeSet(Subset.whole(split), {"views"}, settings, device)
            rows.append(predict(teacher, views.evaluation(options.batch_size), compute))
    if is_main():
        held = [name for name in rows[0] if name not in ("index", "label")]
        joined = {name: np.concatenate([row[name] for row in rows]) for name in held}
        write_bank(output, ids, joined, provenance)
        views, width = joined["view_codes"].shape[1:]
        print(f"exported {len(ids)} shapes x {views} views to {output}, codes of {width} channels")


def open_teacher(
    options: argparse.Namespace, content: dict[str, Any] | None, precision: str
) -> tuple[nn.Module, dict[str, Any]]:
    """The teacher of a checkpoint as read, or of timm, and what the provenance says of it."""
    if content:
        return build_model(content, options.checkpoint), {
            "teacher_file": Path(options.checkpoint).name,
            "teacher_hash": fingerprint(content["model"]),
            "teacher_config": content["config"],
            "classes": content["classes"],
        }
    from models.images.frozen import open_frozen  # takes seconds to import

    teacher, source = open_frozen(options.timm, options.weights or "imagenet", options.size)
    source["teacher_config"]["precision"] = precision
    return teacher, source


def _already_there(output: Path, provenance: dict, overwrite: bool) -> bool:
    """Whether the bank exists as asked for; refuse to replace another one unless told to."""
    barrier()
    if overwrite or not output.exists():
        return False
    try:
        found = Bank(output).provenance
    except DataError as error:
        raise DataError(f"{error}, with --overwrite") from error
    same = dict.fromkeys(BY_CODE)
    trained = "timm" not in provenance["teacher_config"]
    if trained and found["teacher_hash"] == provenance["teacher_hash"]:
        same["teacher_config"] = None  # the words of configurations change, the weights do not
    if changes := differences(found | same, json.loads(json.dumps(provenance)) | same):
        raise ConfigError(
            f"{output} was exported from another teacher or set ({'; '.join(changes[:3])}); choose "
            "another --output or pass --overwrite"
        )
    if is_main():
        print(f"{output} is already the export of this teacher")
    return True


if __name__ == "__main__":
    run_main(main)
