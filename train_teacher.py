"""Train a multi-view image teacher on the views of a prepared set.

    python train_teacher.py scripts/configs/recipes/teacher.yaml data.name=NAME [SET.yaml ...]
    python train_teacher.py scripts/configs/recipes/teacher_autoencoder.yaml data.name=NAME
    python train_teacher.py scripts/configs/recipes/teacher_partseg.yaml data.name=NAME init=CKPT

What it learns is ``teacher.task``: the class of the shape, its own views (no labels), or the part
that every pixel shows, which may start from the backbone of the second. The run goes to
expt/runs/<run>/ (log, TensorBoard, state to resume from), the teacher to ckpt/teacher/<run>.pth.
The same command resumes a run that was interrupted. Under ``torchrun --nproc_per_node=N`` it trains
on N processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches import epoch_steps
from data.datasets import ShapeSet, training_subsets
from data.storage import PreparedSplit
from models.images.teachers import ViewTeacher, build_teacher, initialise_backbone
from models.layers.norms import synchronise_norms
from models.losses import unit_images
from models.methods import build_method
from utils import pictures
from utils.checkpoint import fingerprint, read_model
from utils.config import load_config
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import process_group
from utils.engine import Training, fit, predict
from utils.errors import DataError, run_main
from utils.evaluation import PixelParts, Reconstruction
from utils.metrics import accuracies
from utils.part_metrics import part_counts, part_metrics, restrict_to_category
from utils.run import Run, choose_amp, save_trained, training_record
from utils.settings import PointAugmentation, TeacherConfig

METHODS = {
    "classification": "view_classification",
    "segmentation": "view_segmentation",
    "autoencoder": "image_autoencoder",
}
EVALUATION_BATCH = {"classification": 16, "segmentation": 2, "autoencoder": 4}  # shapes, all views
PICTURED = 4  # shapes


def main(arguments: list[str] | None = None) -> None:
    config = load_config(TeacherConfig, sys.argv[1:] if arguments is None else arguments)
    device = choose_device(config.run.device)
    prepare_process(device, config.run.threads)
    with process_group(device):
        train(config, device)


def train(config: TeacherConfig, device: torch.device) -> None:
    data, settings = config.data, config.teacher
    kind = {"classification": "", "segmentation": "_partseg", "autoencoder": "_autoencoder"}
    data_name = Path(data.name).name + kind[settings.task]
    name = config.run.name or f"{data_name}_{settings.backbone}_s{config.train.seed}"
    folder = Path(config.run.dir) / name
    config = choose_amp(config, device, folder)
    training_subset, watched_subset = training_subsets(data, config.protocol)
    split = training_subset.split

    seed_everything(config.train.seed)
    build = describe_build(config, split)
    inputs = {"data": split.data_hash, "views": split.recipe_hash}
    if config.init is None:
        teacher = build_teacher(**build, weights=settings.weights)
    else:
        teacher = build_teacher(**build)
        content = read_model(config.init, "teacher")
        initialise_backbone(teacher, build, content, config.init)
        inputs["init"] = fingerprint(content["model"])
    teacher = teacher.to(device)
    method = build_method(
        METHODS[settings.task], teacher, config.loss, smoothing=settings.smoothing
    ).to(device)
    if config.train.sync_norm:
        synchronise_norms(method)
    training, watched = (
        ShapeSet(subset, method.fields, data, device)
        for subset in (training_subset, watched_subset)
    )
    batches = training.training(
        config.train.batch_size, config.train.seed, PointAugmentation(), config.augment
    )
    compute, measure = evaluation_of(teacher, settings.task, split)

    def draw(writer, epoch: int, outputs: dict[str, np.ndarray]) -> None:
        pictures.view_grid(writer, epoch, next(batches(epoch))["views"])
        pictures.embedding(writer, epoch, outputs["code"], outputs["label"], split.class_names)
        if settings.task == "classification":
            pictures.confusion(writer, epoch, outputs, split.class_names)
        else:
            draw_pixels(writer, epoch, teacher, next(watched.evaluation(PICTURED)), split)

    history = fit(
        Training(
            method=method,
            batches=batches,
            steps=epoch_steps(len(training), config.train.batch_size),
            evaluate=lambda: predict(
                teacher, watched.evaluation(EVALUATION_BATCH[settings.task]), compute
            ),
            measure=measure,
            pictures=draw,
        ),
        config.optim,
        config.train,
        Run(folder, config, inputs, config.run.overwrite),
        device,
    )
    record = training_record(history, config, split, device)
    save_trained("teacher", name, teacher, build, split.class_names, config, record)


def describe_build(config: TeacherConfig, split: PreparedSplit) -> dict[str, Any]:
    """Arguments of ``build_teacher`` for a prepared set, but for the first weights.

    Raises:
        DataError: parts are to be learnt and the set has none.
    """
    settings = config.teacher
    outputs = {
        "classification": len(split.class_names),
        "segmentation": split.num_parts,
        "autoencoder": 0,
    }
    if settings.task == "segmentation" and split.num_parts == 0:
        raise DataError(f"{split.path} has no part labels, which teacher.task=segmentation learns")
    return {
        "backbone": settings.backbone,
        "num_classes": outputs[settings.task],
        "normalise": settings.normalise,
        "task": settings.task,
        "num_categories": len(split.class_names) if settings.task == "segmentation" else 0,
    }


def evaluation_of(
    teacher: ViewTeacher, task: str, split: PreparedSplit
) -> tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], Callable]:
    """What to compute of a watched batch and how to measure it, for the log."""

    def classify(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = teacher(batch["views"])
        return {"code": output.code, "logits": output.logits}

    def segment(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = teacher(batch["views"], category=batch["label"])
        logits = output.logits.movedim(2, -1)
        found = restrict_to_category(logits, batch["label"], split.part_ranges, background=True)
        counts = part_counts(found, batch["part_images"], split.num_parts + 1)
        return {"code": output.code, "counts": counts}

    def reconstruct(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = teacher(batch["views"])
        error = (output.images - unit_images(batch["views"])).abs().flatten(1).mean(dim=1)
        return {"code": output.code, "error": error}

    def mean_error(outputs: dict[str, np.ndarray]) -> dict[str, float]:
        return {"eval/pixel": float(outputs["error"].mean())}

    return {
        "classification": (classify, accuracies),
        "segmentation": (segment, lambda outputs: part_metrics(outputs, split.part_ranges)),
        "autoencoder": (reconstruct, mean_error),
    }[task]


def draw_pixels(
    writer, epoch: int, teacher: ViewTeacher, batch: dict[str, Tensor], split: PreparedSplit
) -> None:
    """What the teacher makes of one view of a few shapes, beside what is true."""
    was_training = teacher.training
    teacher.eval()
    if "part_images" in batch:
        drawn = PixelParts(teacher, split.class_names, split.part_ranges)
    else:
        drawn = Reconstruction(teacher, split.class_names)
    writer.add_figure("pixels", drawn.figure({}, batch), epoch)
    teacher.train(was_training)


if __name__ == "__main__":
    run_main(main)
