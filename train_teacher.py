"""Train a multi-view image teacher on the views of a prepared set, or a generator on its codes.

    python train_teacher.py scripts/configs/recipes/teacher.yaml data.name=NAME [SET.yaml ...]
    python train_teacher.py scripts/configs/recipes/teacher_autoencoder.yaml data.name=NAME
    python train_teacher.py scripts/configs/recipes/teacher_partseg.yaml data.name=NAME init=CKPT
    python train_teacher.py scripts/configs/recipes/pointcmt_generator.yaml data.name=NAME \
        targets.bank=FILE

What it learns is ``teacher.task``: the class of the shape, its own views (no labels), or the part
that every pixel shows, which may start from the backbone of the second. The last learns to make the
cloud of a shape from the code that a teacher exported, and sees no views. The run goes to
expt/runs/<run>/ (log, TensorBoard, state to resume from), the teacher to ckpt/teacher/<run>.pth.
The same command resumes a run that was interrupted. Under ``torchrun --nproc_per_node=N`` it trains
on N processes.
"""

from __future__ import annotations

import utils.startup as startup

import sys
from pathlib import Path
from typing import Any

import torch

from data.bank import Bank
from data.datasets import ShapeSet
from data.storage import PreparedSplit
from data.subsets import training_subsets
from data.training import TrainingBatches
from models.generators import Generator, build_generator
from models.images.teachers import ViewTeacher, build_teacher, initialise_backbone
from models.layers.norms import synchronise_norms
from models.objective import Objective, pack_heads, wanted_fields
from models.terms import active_terms, sources, teacher_schema
from utils.checkpoint import fingerprint, read_model
from utils.config import load_config
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import process_group
from utils.engine import Training, fit
from utils.errors import run_main
from utils.run import Run, choose_amp, save_trained, training_record
from utils.settings import GeneratorConfig, TeacherConfig
from utils.step import check_step
from utils.tasks import SUFFIXES, output_sizes, task_of


def main(arguments: list[str] | None = None) -> None:
    startup.mark("imports")
    config = load_config(teacher_schema, sys.argv[1:] if arguments is None else arguments)
    device = choose_device(config.run.device)
    prepare_process(device, config.run.threads)
    startup.mark("device")
    with process_group(device):
        train(config, device)


def train(config: TeacherConfig | GeneratorConfig, device: torch.device) -> None:
    check_step(config.train, device)
    data, terms = config.data, active_terms(config.terms)
    name = config.run.name or run_name(config)
    folder = Path(config.run.dir) / name
    config = choose_amp(config, device, folder)
    training_subset, watched_subset = training_subsets(data, config.protocol)
    split = training_subset.split
    startup.mark("data")

    seed_everything(config.train.seed)
    make = make_generator if isinstance(config, GeneratorConfig) else make_image_teacher
    teacher, build, inputs = make(config, split)
    startup.mark("network")
    fields, taught_by = wanted_fields(terms, teacher), config.taught_by
    training = ShapeSet(training_subset, fields, data, device, taught_by)
    startup.mark("data")
    objective = Objective(teacher, terms, training.fields, training.cameras).to(device)
    if config.train.sync_norm:
        synchronise_norms(objective)
    task, seed = task_of(teacher, split), config.train.seed
    history = fit(
        Training(
            objective,
            TrainingBatches(training, config.train.batch_size, seed, *config.changes),
            ShapeSet(watched_subset, task.fields, data, device, taught_by),
            task,
        ),
        config.optim,
        config.train,
        Run(folder, config, inputs, config.run.overwrite),
        device,
    )
    bank = training.bank
    taught = {"method": [], "labelled": "labels" in sources(terms)}
    taught |= {"bank": bank.provenance if bank else None, "teacher": bank and bank.identity}
    record = training_record(history, config, split, device, **taught)
    heads = pack_heads(objective.terms)
    save_trained("teacher", name, teacher, heads, build, split.class_names, config, record)


def make_image_teacher(
    config: TeacherConfig, split: PreparedSplit
) -> tuple[ViewTeacher, dict[str, Any], dict[str, str]]:
    """The network, the arguments of its builder, and hashes of what the run reads."""
    settings = config.teacher
    build = settings.model_dump(exclude={"weights"}) | output_sizes(settings.task, split)
    inputs = {"data": split.data_hash, "views": split.recipe_hash}
    teacher = build_teacher(**build, weights="none" if config.init else settings.weights)
    if config.init is not None:
        content = read_model(config.init, "teacher")
        initialise_backbone(teacher, build, content, config.init)
        inputs["init"] = fingerprint(content["model"])
    return teacher, build, inputs


def make_generator(
    config: GeneratorConfig, split: PreparedSplit
) -> tuple[Generator, dict[str, Any], dict[str, str]]:
    """The same of a generator for the codes of a bank."""
    bank = Bank(config.targets.bank)
    sizes = {"code_size": bank.shape("codes")[-1], "points": config.data.points}
    build = config.teacher.model_dump() | sizes
    return build_generator(**build), build, {"data": split.data_hash, "teacher": bank.identity}


def run_name(config: TeacherConfig | GeneratorConfig) -> str:
    """Data, task, backbone and the seed."""
    data = Path(config.data.name).name + SUFFIXES[config.teacher.task]  # it may be a folder
    backbone = getattr(config.teacher, "backbone", "")  # timm/NAME
    return "_".join(filter(None, [data, backbone.replace("/", "_"), f"s{config.train.seed}"]))


if __name__ == "__main__":
    run_main(main)
