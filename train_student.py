"""Train a point-cloud student, with or without distillation from an exported teacher.

    python train_student.py scripts/configs/pointnet.yaml data.name=NAME distill.bank=FILE
    python train_student.py scripts/configs/pointnet.yaml data.name=NAME loss.distill=0

The second line is the baseline: the same path with the weight of distillation at 0. The run goes to
expt/runs/<run>/, the bare student to ckpt/student/<run>.pth. The same command resumes a run that
was interrupted. Under ``torchrun --nproc_per_node=N`` it trains on N processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from data.bank import Bank
from data.batches import epoch_steps
from data.datasets import PointSet, training_parts
from models.methods import build_method
from models.students import build_student
from utils import pictures
from utils.config import load_config
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import process_group
from utils.engine import Work, fit, predict
from utils.errors import run_main
from utils.metrics import accuracies
from utils.run import Run, save_trained, training_record
from utils.settings import StudentConfig

EVALUATION_BATCH = 64


def main(arguments: list[str] | None = None) -> None:
    config = load_config(StudentConfig, sys.argv[1:] if arguments is None else arguments)
    device = choose_device(config.run.device)
    prepare_process(device, config.run.threads)
    with process_group(device):
        train(config, device)


def run_name(config: StudentConfig) -> str:
    """Data, encoder, what teaches it and the seed."""
    taught = config.distill.method if config.loss.get("distill") else "baseline"
    control = "_shuffled" if config.distill.shuffle_codes else ""
    data = Path(config.data.name).name  # it may be given by its folder
    return f"{data}_{config.student.encoder}_{taught}{control}_s{config.train.seed}"


def train(config: StudentConfig, device: torch.device) -> None:
    data, settings, distill = config.data, config.student, config.distill
    name = config.run.name or run_name(config)
    training_part, watched_part = training_parts(data, config.protocol)
    classes = training_part.split.class_names

    seed_everything(config.train.seed)
    student = build_student(settings.encoder, len(classes), settings.head).to(device)
    method = build_method(distill.method, student, config.loss, smoothing=settings.smoothing).to(
        device
    )
    bank = None
    if "view_codes" in method.fields and distill.bank is not None:
        bank = Bank(distill.bank)
        bank.check(training_part.split)
    shuffle = config.train.seed if distill.shuffle_codes else None
    training = PointSet(training_part, data.points, device, method.fields, bank, shuffle)
    watched = PointSet(watched_part, data.points, device)
    batches = training.training(config.train.batch_size, config.augment, config.train.seed)

    def draw(writer, epoch: int, outputs: dict) -> None:
        batch = next(batches(epoch))
        pictures.cloud(writer, epoch, batch["points"][0], batch.get("visibility"))
        pictures.confusion(writer, epoch, outputs, classes)
        pictures.embedding(writer, epoch, outputs["global_feature"], outputs["label"], classes)

    steps = epoch_steps(len(training), config.train.batch_size)
    inputs = {"data": training_part.split.data_hash}
    if bank is not None:
        inputs["teacher"] = bank.provenance["teacher_hash"]
    run = Run(Path(config.run.runs) / name, config, inputs, config.run.restart)
    history = fit(
        Work(
            method=method,
            batches=batches,
            steps=steps,
            evaluate=lambda: predict(
                student,
                watched.evaluation(EVALUATION_BATCH),
                "points",
                ("logits", "global_feature"),
            ),
            measure=accuracies,
            pictures=draw,
        ),
        config.optim,
        config.train,
        run,
        device,
    )
    build = {"encoder": settings.encoder, "num_classes": len(classes), "head": settings.head}
    record = training_record(history, config, training_part.split, device)
    record["bank"] = bank.provenance if bank else None
    save_trained("student", name, student, build, classes, config, record)


if __name__ == "__main__":
    run_main(main)
