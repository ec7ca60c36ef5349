"""Train a point-cloud student, with or without distillation from an exported teacher.

    python train_student.py scripts/configs/recipes/pointnet.yaml data.name=NAME distill.bank=FILE
    python train_student.py scripts/configs/recipes/pointnet.yaml data.name=NAME loss.distill=0
    python train_student.py scripts/configs/recipes/dgcnn.yaml scripts/configs/sets/psb26.yaml ...

The second line is the baseline: the same path with the weight of distillation at 0. Sets are laid
over a recipe from left to right; ``recipes/partseg_*.yaml`` learn the parts of shapes. With
``loss.task=0`` the student is pre-trained without labels; ``init=CKPT`` starts another run
from its encoder. The run goes to expt/runs/<run>/, the student to ckpt/student/<run>.pth. The same
command resumes a run that was interrupted. Under ``torchrun --nproc_per_node=N`` it trains on N
processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.batches import epoch_steps
from data.datasets import ShapeSet, training_subsets
from data.storage import PreparedSplit
from models.layers.norms import synchronise_norms
from models.methods import build_method
from models.students import Student, build_student, initialise_encoder
from utils import pictures
from utils.checkpoint import fingerprint, read_model
from utils.config import load_config
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import process_group
from utils.engine import Training, fit, predict
from utils.errors import DataError, run_main
from utils.metrics import accuracies
from utils.part_metrics import part_counts, part_metrics, restrict_to_category
from utils.run import Run, choose_amp, save_trained, training_record
from utils.settings import StudentConfig, TargetSettings, ViewAugmentation

EVALUATION_BATCH = 64


def main(arguments: list[str] | None = None) -> None:
    config = load_config(StudentConfig, sys.argv[1:] if arguments is None else arguments)
    device = choose_device(config.run.device)
    prepare_process(device, config.run.threads)
    with process_group(device):
        train(config, device)


def run_name(config: StudentConfig) -> str:
    """Data, task, encoder, what teaches it and the seed."""
    taught = config.distill.method if config.loss.get("distill") else "baseline"
    if not config.loss.get("task"):
        taught += "_pretrained"
    control = "_shuffled" if config.distill.shuffle_codes else ""
    kind = "_partseg" if config.student.task == "segmentation" else ""
    data = Path(config.data.name).name  # it may be given by its folder
    return f"{data}{kind}_{config.student.encoder}_{taught}{control}_s{config.train.seed}"


def train(config: StudentConfig, device: torch.device) -> None:
    data, settings, distill = config.data, config.student, config.distill
    name = config.run.name or run_name(config)
    folder = Path(config.run.dir) / name
    config = choose_amp(config, device, folder)
    training_subset, watched_subset = training_subsets(data, config.protocol)
    split = training_subset.split

    seed_everything(config.train.seed)
    build = describe_build(config, split)
    student = build_student(**build)
    inputs = {"data": split.data_hash}
    if config.init is not None:
        content = read_model(config.init, "student")
        initialise_encoder(student, build, content, config.init)
        inputs["init"] = fingerprint(content["model"])
    student = student.to(device)
    method = build_method(
        distill.method,
        student,
        config.loss,
        smoothing=settings.smoothing,
        pooling=distill.pooling,
        distance=distill.distance,
    ).to(device)
    if config.train.sync_norm:
        synchronise_norms(method)
    targets = TargetSettings(
        bank=distill.bank,
        views=distill.views,
        visibility=distill.visibility,
        shuffle="all" if distill.shuffle_codes else "none",
    )
    seed = config.train.seed
    training = ShapeSet(training_subset, method.fields, data, device, targets, seed)
    bank = training.bank
    if bank is not None:
        inputs["teacher"] = bank.provenance["teacher_hash"]
    task_fields = {"parts"} if student.task == "segmentation" else set()
    watched = ShapeSet(watched_subset, {"points"} | task_fields, data, device)
    batches = training.training(config.train.batch_size, seed, config.augment, ViewAugmentation())
    compute, measure = evaluation_of(student, split, labelled="task" in method.weights)

    def draw(writer, epoch: int, outputs: dict) -> None:
        batch = next(batches(epoch))
        pictures.cloud(writer, epoch, batch["points"][0], batch.get("visibility"))
        if "logits" in outputs:
            pictures.confusion(writer, epoch, outputs, split.class_names)
        features = outputs["global_feature"]
        pictures.embedding(writer, epoch, features, outputs["label"], split.class_names)

    history = fit(
        Training(
            method=method,
            batches=batches,
            steps=epoch_steps(len(training), config.train.batch_size),
            evaluate=lambda: predict(student, watched.evaluation(EVALUATION_BATCH), compute),
            measure=measure,
            pictures=draw,
        ),
        config.optim,
        config.train,
        Run(folder, config, inputs, config.run.overwrite),
        device,
    )
    record = training_record(history, config, split, device)
    record["bank"] = bank.provenance if bank else None
    build["projection"] = student.projection is not None
    save_trained("student", name, student, build, split.class_names, config, record)


def describe_build(config: StudentConfig, split: PreparedSplit) -> dict[str, Any]:
    """Arguments of ``build_student`` for a prepared set; DataError if it lacks what is learnt."""
    settings = config.student
    segmentation = settings.task == "segmentation"
    if segmentation and split.num_parts == 0:
        raise DataError(f"{split.path} has no part labels, which student.task=segmentation learns")
    return {
        "encoder": settings.encoder,
        "num_classes": split.num_parts if segmentation else len(split.class_names),
        "head": settings.head,
        "task": settings.task,
        "num_categories": len(split.class_names) if segmentation else 0,
        "sampling": settings.sampling,
    }


def evaluation_of(student: Student, split: PreparedSplit, labelled: bool):
    """What to compute of a watched batch and how to measure it, for the log: nothing but features,
    for the picture of their embedding, of a student that learns without labels."""
    if not labelled:

        def embed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            output = student(batch["points"], batch["label"])
            return {"global_feature": output.global_feature}

        return embed, lambda outputs: {}
    if student.task == "classification":

        def classify(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            output = student(batch["points"])
            return {"logits": output.logits, "global_feature": output.global_feature}

        return classify, accuracies

    def segment(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = student(batch["points"], batch["label"])
        found = restrict_to_category(output.logits, batch["label"], split.part_ranges)
        counts = part_counts(found, batch["parts"], split.num_parts)
        return {"counts": counts, "global_feature": output.global_feature}

    return segment, lambda outputs: part_metrics(outputs, split.part_ranges)


if __name__ == "__main__":
    run_main(main)
