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

import utils.startup as startup

import sys
from pathlib import Path

import torch

from data.datasets import ShapeSet
from data.subsets import training_subsets
from data.training import TrainingBatches
from models.images.teachers import build_teacher, initialise_backbone
from models.layers.norms import synchronise_norms
from models.objective import Objective, pack_heads, wanted_fields
from models.terms import active_terms, sources, with_terms
from utils.checkpoint import fingerprint, read_model
from utils.config import load_config
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import process_group
from utils.engine import Training, fit
from utils.errors import run_main
from utils.run import Run, choose_amp, save_trained, training_record
from utils.settings import PointAugmentation, TeacherConfig
from utils.step import check_step
from utils.tasks import SUFFIXES, output_sizes, task_of


def main(arguments: list[str] | None = None) -> None:
    startup.mark("imports")
    config = load_config(
        with_terms(TeacherConfig), sys.argv[1:] if arguments is None else arguments
    )
    device = choose_device(config.run.device)
    prepare_process(device, config.run.threads)
    startup.mark("device")
    with process_group(device):
        train(config, device)


def train(config: TeacherConfig, device: torch.device) -> None:
    check_step(config.train, device)
    data, settings, terms = config.data, config.teacher, active_terms(config.terms)
    data_name = Path(data.name).name + SUFFIXES[settings.task]  # it may be given by its folder
    backbone = settings.backbone.replace("/", "_")  # timm/NAME
    name = config.run.name or f"{data_name}_{backbone}_s{config.train.seed}"
    folder = Path(config.run.dir) / name
    config = choose_amp(config, device, folder)
    training_subset, watched_subset = training_subsets(data, config.protocol)
    split = training_subset.split
    startup.mark("data")

    seed_everything(config.train.seed)
    build = {
        "backbone": settings.backbone,
        "normalise": settings.normalise,
        "task": settings.task,
        **output_sizes(settings.task, split),
    }
    inputs = {"data": split.data_hash, "views": split.recipe_hash}
    teacher = build_teacher(**build, weights="none" if config.init else settings.weights)
    if config.init is not None:
        content = read_model(config.init, "teacher")
        initialise_backbone(teacher, build, content, config.init)
        inputs["init"] = fingerprint(content["model"])
    startup.mark("network")

    training = ShapeSet(training_subset, wanted_fields(terms, teacher), data, device)
    startup.mark("data")
    objective = Objective(teacher, terms, training.fields, training.cameras).to(device)
    if config.train.sync_norm:
        synchronise_norms(objective)
    task = task_of(teacher, split)
    seed, changes = config.train.seed, (PointAugmentation(), config.augment)
    history = fit(
        Training(
            objective,
            TrainingBatches(training, config.train.batch_size, seed, *changes),
            ShapeSet(watched_subset, task.fields, data, device),
            task,
        ),
        config.optim,
        config.train,
        Run(folder, config, inputs, config.run.overwrite),
        device,
    )
    labelled = "labels" in sources(terms)
    record = training_record(
        history, config, split, device, method=[], labelled=labelled, bank=None
    )
    heads = pack_heads(objective.terms)
    save_trained("teacher", name, teacher, heads, build, split.class_names, config, record)


if __name__ == "__main__":
    run_main(main)
