"""Train a point-cloud student, with or without distillation from an exported teacher.

    python train_student.py scripts/configs/recipes/pointnet.yaml data.name=NAME targets.bank=FILE
    python train_student.py scripts/configs/recipes/pointnet.yaml data.name=NAME \
        terms.alignment.weight=0
    python train_student.py scripts/configs/recipes/dgcnn.yaml scripts/configs/sets/psb26.yaml ...

The second line is the baseline: the same path with the weight of distillation at 0. Sets are laid
over a recipe from left to right; ``recipes/partseg_*.yaml`` learn the parts of shapes. With
``terms.task.weight=0`` the student is pre-trained without labels; ``init=CKPT`` starts another run
from its encoder. The run goes to expt/runs/<run>/, the student to ckpt/student/<run>.pth. The same
command resumes a run that was interrupted. Under ``torchrun --nproc_per_node=N`` it trains on N
processes.
"""

from __future__ import annotations

import utils.startup as startup

import sys
from pathlib import Path

import torch

from data.datasets import ShapeSet
from data.subsets import training_subsets
from data.training import TrainingBatches
from models.layers.norms import synchronise_norms
from models.objective import Objective, pack_heads, wanted_fields
from models.students import build_student
from models.terms import active_terms, method_label, sources, with_terms
from models.warm_start import initialise_encoder
from utils.checkpoint import fingerprint, read_model
from utils.config import load_config
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import process_group
from utils.engine import Training, fit
from utils.errors import run_main
from utils.run import Run, choose_amp, save_trained, training_record
from utils.settings import StudentConfig
from utils.step import check_step
from utils.tasks import SUFFIXES, output_sizes, task_of


def main(arguments: list[str] | None = None) -> None:
    startup.mark("imports")
    config = load_config(
        with_terms(StudentConfig), sys.argv[1:] if arguments is None else arguments
    )
    device = choose_device(config.run.device)
    prepare_process(device, config.run.threads)
    startup.mark("device")
    with process_group(device):
        train(config, device)


def train(config: StudentConfig, device: torch.device) -> None:
    check_step(config.train, device)
    data, settings, terms = config.data, config.student, active_terms(config.terms)
    label = method_label(config.method, terms)
    name = config.run.name or run_name(config, label[0])
    folder = Path(config.run.dir) / name
    config = choose_amp(config, device, folder)
    training_subset, watched_subset = training_subsets(data, config.protocol)
    split = training_subset.split
    startup.mark("data")

    seed_everything(config.train.seed)
    build = {
        "encoder": settings.encoder,
        "head": settings.head,
        "task": settings.task,
        "sampling": settings.sampling,
        "code_size": settings.code_size,
        **output_sizes(settings.task, split),
    }
    student = build_student(**build)
    inputs = {"data": split.data_hash}
    if config.init is not None:
        content = read_model(config.init, "student")
        initialise_encoder(student, build, content, config.init)
        inputs["init"] = fingerprint(content["model"])
    startup.mark("network")

    seed = config.train.seed
    fields = wanted_fields(terms, student)
    training = ShapeSet(training_subset, fields, data, device, config.targets, seed)
    if training.bank is not None:
        inputs["teacher"] = training.bank.identity
    startup.mark("data")
    objective = Objective(student, terms, training.fields, training.cameras).to(device)
    inputs |= objective.inputs
    if config.train.sync_norm:
        synchronise_norms(objective)
    labelled = "labels" in sources(terms)
    task = task_of(student, split, labelled)
    changes = config.augment, config.augment_views
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
    bank = training.bank.provenance if training.bank else None
    if "teacher" in sources(terms):
        label += (training.bank.label() if training.bank else []) + config.targets.changes(fields)
    taught = {"method": label, "labelled": labelled, "bank": bank}
    record = training_record(history, config, split, device, **taught)
    heads = pack_heads(objective.terms)
    save_trained("student", name, student, heads, build, split.class_names, config, record)


def run_name(config: StudentConfig, method: str) -> str:
    """Data, task, encoder, what teaches it and the seed."""
    data = Path(config.data.name).name + SUFFIXES[config.student.task]  # it may be a folder
    taught = sources(active_terms(config.terms))
    labels = "" if "labels" in taught else "_pretrained"
    controls = {"none": "", "all": "_shuffled", "class": "_shuffled_class"}
    control = controls[config.targets.shuffle] if "teacher" in taught else ""
    return f"{data}_{config.student.encoder}_{method}{labels}{control}_s{config.train.seed}"


if __name__ == "__main__":
    run_main(main)
