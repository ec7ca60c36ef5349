"""Train a multi-view image teacher on the views of a prepared set.

    python train_teacher.py scripts/configs/teacher.yaml data.name=NAME [group.key=value ...]

The run goes to expt/runs/<run>/ (log, TensorBoard, state to resume from), the teacher to
ckpt/teacher/<run>.pth. The same command resumes a run that was interrupted. Under
``torchrun --nproc_per_node=N`` it trains on N processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from data.batches import epoch_steps
from data.datasets import ViewSet, training_parts
from models.methods import ViewClassification
from models.teacher import build_teacher
from utils import pictures
from utils.config import load_config
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import process_group
from utils.engine import Work, fit, predict
from utils.errors import run_main
from utils.metrics import accuracies
from utils.run import Run, save_trained, training_record
from utils.settings import TeacherConfig

EVALUATION_BATCH = 16  # shapes, each with all its views


def main(arguments: list[str] | None = None) -> None:
    config = load_config(TeacherConfig, sys.argv[1:] if arguments is None else arguments)
    device = choose_device(config.run.device)
    prepare_process(device, config.run.threads)
    with process_group(device):
        train(config, device)


def train(config: TeacherConfig, device: torch.device) -> None:
    data, settings = config.data, config.teacher
    name = config.run.name or f"{Path(data.name).name}_{settings.backbone}_s{config.train.seed}"
    training_part, watched_part = training_parts(data, config.protocol)
    training = ViewSet(training_part, device, data.size, data.workers)
    watched = ViewSet(watched_part, device, data.size, data.workers)
    classes = training_part.split.class_names

    seed_everything(config.train.seed)
    teacher = build_teacher(
        settings.backbone, len(classes), settings.weights, settings.normalise
    ).to(device)
    batches = training.training(config.train.batch_size, config.augment, config.train.seed)

    def draw(writer, epoch: int, outputs: dict) -> None:
        pictures.view_grid(writer, epoch, next(batches(epoch))["views"])
        pictures.confusion(writer, epoch, outputs, classes)
        pictures.embedding(writer, epoch, outputs["code"], outputs["label"], classes)

    steps = epoch_steps(len(training), config.train.batch_size)
    inputs = {"data": training_part.split.data_hash, "views": training_part.split.recipe_hash}
    run = Run(Path(config.run.runs) / name, config, inputs, config.run.restart)
    history = fit(
        Work(
            method=ViewClassification(teacher, config.loss, settings.smoothing).to(device),
            batches=batches,
            steps=steps,
            evaluate=lambda: predict(
                teacher, watched.evaluation(EVALUATION_BATCH), "views", ("logits", "code")
            ),
            measure=accuracies,
            pictures=draw,
        ),
        config.optim,
        config.train,
        run,
        device,
    )
    build = {"backbone": settings.backbone, "num_classes": len(classes)}
    build["normalise"] = settings.normalise
    record = training_record(history, config, training_part.split, device)
    save_trained("teacher", name, teacher, build, classes, config, record)


if __name__ == "__main__":
    run_main(main)
