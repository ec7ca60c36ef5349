"""Export what a teacher knows of every shape by its id: view codes, shape code, logits of classes.

    python export_teacher.py ckpt/teacher/RUN.pth [--data NAME] [--output expt/teacher/RUN.h5]

One forward pass over train and test, in evaluation mode; no label is read. The file carries its
provenance; students refuse it if it does not fit their data. Under ``torchrun`` the shapes are
shared out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from torch import Tensor

from data.bank import Bank, write_bank
from data.datasets import ShapeSet, Subset
from data.storage import open_split
from models.loading import build_model
from utils.checkpoint import fingerprint, read_model
from utils.config import differences, not_negative, positive
from utils.device import choose_device, prepare_process
from utils.distributed import barrier, is_main, process_group
from utils.engine import predict
from utils.errors import ConfigError, DataError, run_main
from utils.run import source_commit
from utils.settings import DataSettings

FIELDS = {  # array of the bank -> what the teacher gives; only a classification teacher has logits
    "view_codes": "view_codes",
    "codes": "code",
    "view_logits": "view_logits",
    "logits": "logits",
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="of train_teacher.py")
    parser.add_argument("--data", help="prepared set; default: the one the teacher was trained on")
    parser.add_argument("--root", help="folder of the prepared sets; default: as in training")
    parser.add_argument("--output", type=Path, help="default: expt/teacher/<checkpoint's name>.h5")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a bank of another teacher"
    )
    parser.add_argument("--batch-size", type=positive, default=16, help="shapes per step (16)")
    parser.add_argument("--workers", type=not_negative, default=0, help="decode views (0)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = choose_device(options.device)
    prepare_process(device, options.threads)
    with process_group(device):
        export(options, device)


def export(options: argparse.Namespace, device) -> None:
    content = read_model(options.checkpoint, "teacher")
    data = content["config"]["data"]
    name, root = options.data or data["name"], options.root or data["root"]
    splits = {split: open_split(name, split, root) for split in ("train", "test")}
    output = options.output or Path("expt/teacher") / f"{Path(options.checkpoint).stem}.h5"
    provenance = {
        "data_name": splits["train"].name,
        "data_hash": {name: split.data_hash for name, split in splits.items()},
        "recipe_hash": splits["train"].recipe_hash,
        "teacher_file": Path(options.checkpoint).name,
        "teacher_hash": fingerprint(content["model"]),
        "teacher_config": content["config"],
        "commit": source_commit(),
    }
    if _already_there(output, provenance, options.overwrite):
        return

    teacher = build_model(content, options.checkpoint).to(device)

    def compute(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = teacher(batch["views"])
        found = {array: getattr(output, field) for array, field in FIELDS.items()}
        return {array: value for array, value in found.items() if value is not None}

    ids: list[str] = []
    rows: list[dict[str, np.ndarray]] = []
    for split in splits.values():
        shapes = Subset(split, np.arange(len(split.ids)))
        settings = DataSettings(
            name=name, size=data["size"], workers=options.workers, cache_on_device=False
        )
        views = ShapeSet(shapes, {"views"}, settings, device)
        rows.append(predict(teacher, views.evaluation(options.batch_size), compute))
        ids += split.ids
    if is_main():
        held = [name for name in FIELDS if name in rows[0]]
        joined = {name: np.concatenate([row[name] for row in rows]) for name in held}
        write_bank(output, ids, joined, provenance)
        print(f"exported {len(ids)} shapes x {joined['view_codes'].shape[1]} views to {output}")


def _already_there(output: Path, provenance: dict, overwrite: bool) -> bool:
    """Whether the bank exists as asked for; refuse to replace another one unless told to."""
    barrier()
    if overwrite or not output.exists():
        return False
    try:
        found = Bank(output).provenance
    except DataError as error:
        raise DataError(f"{error}, with --overwrite") from error
    commit = {"commit": None}  # later code may export the same teacher
    if changes := differences(found | commit, json.loads(json.dumps(provenance)) | commit):
        raise ConfigError(
            f"{output} was exported from another teacher or set ({'; '.join(changes[:3])}); choose "
            "another --output or pass --overwrite"
        )
    if is_main():
        print(f"{output} is already the export of this teacher")
    return True


if __name__ == "__main__":
    run_main(main)
