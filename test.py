"""Test a teacher or student, probe its features, or name the class or the parts of one cloud.

    python test.py ckpt/student/RUN.pth                accuracies or part IoU, with a table by class
    python test.py ckpt/student/RUN.pth --vote mean 10                 the mean of 10 votes
    python test.py ckpt/student/RUN.pth --probe svm --data NAME        features on any prepared set
    python test.py ckpt/student/RUN.pth --probe fewshot --data NAME
    python test.py ckpt/student/RUN.pth --cloud FILE   classes, or --category NAME: parts

One forward pass of the last epoch's weights, unless a vote is asked for. A row is added to
expt/results.csv, what the network says of every shape goes to expt/predictions/RUN.npz, a picture
to expt/pictures/. Under ``torchrun`` the shapes are shared out.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from data.augment import vote_factors
from data.datasets import Batch, ShapeSet
from data.geometry.sampling import farthest_point_order
from data.subsets import Subset, few_of, tested_data, tested_subset, whole_split
from data.targets import tested_targets
from models.loading import build_model
from models.students import build_student
from utils import results
from utils.answers import class_lines, part_lines
from utils.checkpoint import read_model
from utils.config import not_negative, positive
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import is_main, process_group
from utils.engine import predict
from utils.errors import ConfigError, run_main
from utils.options import add_probes, add_votes, check
from utils.pictures import save_figure
from utils.report import describe_checkpoint, describe_probe, describe_test
from utils.tasks import require_labels, task_of, tested_task
from utils.tasks.voting import PASSES, Vote


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="of train_teacher.py or train_student.py")
    parser.add_argument("--split", default="test", choices=["test", "val", "train"])
    parser.add_argument("--data", help="prepared set; default: the one of the training")
    parser.add_argument("--root", help="folder of the prepared sets; default: as in training")
    parser.add_argument("--points", type=positive, help="of a cloud; default: as in training")
    parser.add_argument("--results", default="expt/results.csv", help="table to add the row to")
    parser.add_argument("--predictions", type=Path, help="folder; default: beside the table")
    parser.add_argument("--pictures", default="expt/pictures", help="folder of the picture")
    parser.add_argument("--bank", help="of a generator; default: the one of the training")
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    cloud = parser.add_argument_group("one cloud")
    cloud.add_argument("--cloud", help="a ply, xyz, txt, npy or off file")
    cloud.add_argument("--up", default="z", choices=["x", "y", "z"], help="its up axis (z)")
    cloud.add_argument("--top", type=positive, default=5, help="classes to print (5)")
    cloud.add_argument("--category", help="its class, which part segmentation has to be told")
    add_votes(parser)
    add_probes(parser)
    options = parser.parse_args(arguments)
    options.predictions = options.predictions or Path(options.results).parent / "predictions"
    check(parser, options)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = choose_device(options.device)
    prepare_process(device, options.threads)
    with process_group(device):
        if options.cloud:
            name_cloud(options, device)
        elif options.probe:
            probe(options, device)
        else:
            test(options, device)


def test(options: argparse.Namespace, device: torch.device) -> None:
    content = read_model(options.checkpoint)
    network = build_model(content, options.checkpoint).to(device)
    start = time.perf_counter()
    data, targets = tested_data(content, options), tested_targets(content, options)
    subset = tested_subset(data, options.split, content["training"], options.checkpoint)
    split = subset.split
    task = tested_task(content, network, split, options.checkpoint)
    if options.vote:
        draw = partial(vote_factors, seed=options.vote_seed, passes=PASSES - 1)
        task = Vote(task, options.vote, draw, len(subset.members))

    def batches(chosen: Subset) -> Iterator[Batch]:
        shapes = ShapeSet(chosen, task.fields, data, device, targets)
        return shapes.evaluation(options.batch_size)

    outputs = predict(network, batches(subset), task.compute)
    seconds = time.perf_counter() - start
    if not is_main():
        return
    report = task.report(outputs)
    name = Path(options.checkpoint).stem
    vote = f"_vote{options.vote}" if options.vote else ""
    picture = Path(options.pictures) / f"{name}_{split.name}_{options.split}{vote}.png"
    save_figure(task.figure(outputs, lambda: next(batches(few_of(subset)))), picture)
    print("\n".join(report.lines))
    print(f"picture: {picture}")
    usual = options.split == "test" and split.name == Path(content["config"]["data"]["name"]).name
    more = "" if usual else f"_{split.name}_{options.split}"
    more += f"_{options.points}points" if options.points else ""
    place = options.predictions / f"{name}{more}{vote}.npz"
    results.save_predictions(place, split.ids, outputs, task.predictions(outputs))
    if report.columns:
        tested = {"data": split.name, "split": options.split, "shapes": len(subset.members)}
        path, points, votes = options.checkpoint, options.points, options.vote
        described = describe_checkpoint(path, content, network, points, votes)
        row = describe_test(described, report.columns, seconds, device, task=task.name, **tested)
        results.append(options.results, row)
    where = f"{split.name} {options.split}, {len(subset.members)} shapes"
    print(f"{name} on {where}: {report.headline}")


def probe(options: argparse.Namespace, device: torch.device) -> None:
    """Read frozen global features with a linear SVM, on any prepared classification set."""
    from utils.probe import Episodes, few_shot_report, svm_report  # scikit-learn takes a second

    content = read_model(options.checkpoint, "student")
    seed = options.random_weights
    if content["build"]["task"] != "classification":
        raise ConfigError("--probe reads the features of a classification student")
    if seed is None:
        student = build_model(content, options.checkpoint)
    else:
        seed_everything(seed)
        student = build_student(**content["build"]).eval()
    student = student.to(device)
    start = time.perf_counter()
    data = tested_data(content, options)
    subsets = [whole_split(data, name) for name in ("train", "test")]
    outputs = []
    for subset in subsets:
        task = task_of(student, subset.split, labelled=False)
        shapes = ShapeSet(subset, task.fields, data, device)
        outputs.append(predict(student, shapes.evaluation(options.batch_size), task.compute))
    if not is_main():
        return
    train, test = ((found["feature"], found["label"]) for found in outputs)
    split = subsets[1].split
    counts = Episodes(options.ways, options.shots, options.queries, options.repeats)
    report = (
        svm_report(train, test, split.class_names)
        if options.probe == "svm"
        else few_shot_report(train, test, counts)
    )
    seconds = time.perf_counter() - start
    described = describe_checkpoint(options.checkpoint, content, student, options.points)
    described = describe_probe(described, content, report.protocol, student, seed)
    tested = {"data": split.name, "split": "test", "shapes": len(split.ids), "task": options.probe}
    row = describe_test(described, report.columns, seconds, device, **tested)
    results.append(options.results, row)
    print("\n".join(report.lines))
    if report.predictions:
        place = options.predictions / f"{row.run}_{options.probe}_{split.name}.npz"
        results.save_predictions(place, split.ids, outputs[1], report.predictions)
    print(f"{row.run} ({row.method}) on {row.data}, {report.protocol}: {report.headline}")


def name_cloud(options: argparse.Namespace, device: torch.device) -> None:
    """Print what a student says of one cloud; needs its checkpoint and nothing else."""
    from data.geometry.clouds import normalise_cloud, read_cloud  # trimesh takes a second

    content = read_model(options.checkpoint, "student")
    require_labels(content, options.checkpoint)
    student = build_model(content, options.checkpoint).to(device)
    points = normalise_cloud(read_cloud(options.cloud), options.up)
    found = len(points)
    count = options.points or content["config"]["data"]["points"]
    points = points[farthest_point_order(points, min(count, found))]
    if student.task == "classification":
        lines = class_lines(student, points, content["classes"], options.top)
    else:
        picture = Path(options.pictures) / f"{Path(options.cloud).stem}_parts.png"
        parts = content["training"].get("part_names")
        lines = part_lines(student, points, content["classes"], parts, options.category, picture)
    if is_main():
        print(f"{options.cloud}: {found} points, {len(points)} used")
        print("\n".join(lines))


if __name__ == "__main__":
    run_main(main)
