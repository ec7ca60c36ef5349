"""Test a teacher or student, probe its features, or name the class or the parts of one cloud.

    python test.py ckpt/student/RUN.pth                accuracies or part IoU, with a table by class
    python test.py ckpt/student/RUN.pth --probe svm --data NAME        features on any prepared set
    python test.py ckpt/student/RUN.pth --probe fewshot --data NAME
    python test.py ckpt/student/RUN.pth --cloud FILE   classes, or --category NAME: parts

One forward pass, no voting, on the last epoch's weights. A row is added to expt/results.csv and
a picture is drawn to expt/pictures/. Under ``torchrun`` the shapes are shared out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.batches import carve_validation
from data.datasets import ShapeSet, Subset
from data.geometry.sampling import farthest_point_order
from data.storage import PreparedSplit, open_split
from models.loading import build_model
from models.students import build_student
from utils import results
from utils.answers import class_lines, part_lines
from utils.checkpoint import read_model
from utils.config import not_negative, positive
from utils.device import choose_device, prepare_process, seed_everything
from utils.distributed import is_main, process_group
from utils.engine import predict
from utils.errors import ConfigError, DataError, run_main
from utils.evaluation import evaluation_of, require_labels
from utils.pictures import save_figure
from utils.report import describe_checkpoint, describe_probe, describe_test
from utils.settings import DataSettings, PointDataSettings

PICTURED_SHAPES = 8


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="of train_teacher.py or train_student.py")
    parser.add_argument("--split", default="test", choices=["test", "val", "train"])
    parser.add_argument("--data", help="prepared set; default: the one of the training")
    parser.add_argument("--root", help="folder of the prepared sets; default: as in training")
    parser.add_argument("--points", type=positive, help="of a cloud; default: as in training")
    parser.add_argument("--results", default="expt/results.csv", help="table to add the row to")
    parser.add_argument("--pictures", default="expt/pictures", help="folder of the picture")
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    cloud = parser.add_argument_group("one cloud")
    cloud.add_argument("--cloud", help="a ply, xyz, txt, npy or off file")
    cloud.add_argument("--up", default="z", choices=["x", "y", "z"], help="its up axis (z)")
    cloud.add_argument("--top", type=positive, default=5, help="classes to print (5)")
    cloud.add_argument("--category", help="its class, which part segmentation has to be told")
    probes = parser.add_argument_group("probes of frozen features, on the train and test splits")
    probes.add_argument("--probe", choices=["svm", "fewshot"])
    probes.add_argument(
        "--random-weights",
        type=not_negative,
        metavar="SEED",
        help="control: the same network as it is before training",
    )
    probes.add_argument("--ways", type=positive, default=5, help="classes of an episode (5)")
    probes.add_argument("--shots", type=positive, default=10, help="training shapes of each (10)")
    probes.add_argument("--queries", type=positive, default=20, help="test shapes of each (20)")
    probes.add_argument("--repeats", type=positive, default=10, help="episodes (10)")
    options = parser.parse_args(arguments)
    if options.random_weights is not None and not options.probe:
        parser.error("--random-weights is the control of a probe: give --probe too")
    if options.category is not None and not options.cloud:
        parser.error("--category is the class of a --cloud")
    if options.ways < 2:
        parser.error("--ways must be 2 or more: one class leaves nothing to tell apart")
    if options.probe and (options.cloud or options.split != "test"):
        parser.error("--probe reads the train and the test split: no --cloud, no --split")
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
    subset = tested_subset(options, content)
    evaluation = evaluation_of(content, network, subset.split, options.checkpoint)

    def load(chosen: Subset) -> ShapeSet:
        data = content["config"]["data"]
        if content["role"] == "student":
            points = options.points or data["points"]
            settings = PointDataSettings(name=data["name"], points=points)
            return ShapeSet(chosen, {"points", *evaluation.fields}, settings, device)
        settings = DataSettings(
            name=data["name"], size=data["size"], workers=data["workers"], cache_on_device=False
        )
        return ShapeSet(chosen, {"views", *evaluation.fields}, settings, device)

    batches = load(subset).evaluation(options.batch_size)
    outputs = predict(network, batches, evaluation.compute)
    seconds = time.perf_counter() - start
    if not is_main():
        return
    report = evaluation.report(outputs)
    name, data_name = Path(options.checkpoint).stem, subset.split.name
    few = np.unique(np.linspace(0, len(subset.members) - 1, PICTURED_SHAPES).astype(int))
    example = next(load(Subset(subset.split, subset.members[few])).evaluation(len(few)))
    picture = Path(options.pictures) / f"{name}_{data_name}_{options.split}.png"
    save_figure(evaluation.figure(outputs, example), picture)
    print("\n".join(report.lines))
    print(f"picture: {picture}")
    if report.columns:
        described = describe_checkpoint(options.checkpoint, content, options.points)
        tested = {"data": data_name, "split": options.split, "shapes": len(subset.members)}
        tested["task"] = evaluation.task
        row = describe_test(described, report.columns, seconds, device, **tested)
        results.append(options.results, row)
    print(f"{name} on {data_name} {options.split}, {len(subset.members)} shapes: {report.headline}")


def tested_subset(options: argparse.Namespace, content: dict[str, Any]) -> Subset:
    """The shapes to test on; the classes must be the checkpoint's."""
    data, training = content["config"]["data"], content["training"]
    name, root = options.data or data["name"], options.root or data["root"]
    split = open_split(name, "test" if options.split == "test" else "train", root)
    if split.class_names != content["classes"] and content["build"].get("task") != "autoencoder":
        raise DataError(
            f"{options.checkpoint} knows {len(content['classes'])} classes "
            f"({content['classes'][0]}, ...), {name} has {len(split.class_names)} "
            f"({split.class_names[0]}, ...): they must be the same classes in the same order"
        )
    if options.split == "test":
        return Subset(split, np.arange(len(split.ids)))
    if options.split == "val" and training["val_fraction"] == 0:
        raise ConfigError(
            f"{options.checkpoint} was trained without a validation split (protocol.val_fraction=0)"
        )
    if split.data_hash != training["data_hash"]:
        raise DataError(
            f"{options.checkpoint} was trained on shapes {training['data_hash'] or 'unknown'}, "
            f"{name} holds {split.data_hash}: what was held out is not known; use --split test"
        )
    train, held_out = carve_validation(split.labels, training["val_fraction"], training["val_seed"])
    return Subset(split, held_out if options.split == "val" else train)


def probe(options: argparse.Namespace, device: torch.device) -> None:
    """Read frozen global features with a linear SVM, on any prepared classification set."""
    from utils.probe import Episodes, few_shot_report, svm_report  # scikit-learn takes a second

    content = read_model(options.checkpoint, "student")
    data, seed = content["config"]["data"], options.random_weights
    if content["build"].get("task", "classification") != "classification":
        raise ConfigError("--probe reads the features of a classification student")
    if seed is None:
        student = build_model(content, options.checkpoint)
    else:
        seed_everything(seed)
        student = build_student(**content["build"]).eval()
    student = student.to(device)
    start = time.perf_counter()
    name, root = options.data or data["name"], options.root or data["root"]
    splits = [open_split(name, split, root) for split in ("train", "test")]
    points = options.points or data["points"]

    def features(split: PreparedSplit) -> tuple[np.ndarray, np.ndarray]:
        subset = Subset(split, np.arange(len(split.ids)))
        shapes = ShapeSet(subset, {"points"}, PointDataSettings(name=name, points=points), device)
        outputs = predict(
            student,
            shapes.evaluation(options.batch_size),
            lambda batch: {"feature": student(batch["points"]).global_feature},
        )
        return outputs["feature"], outputs["label"]

    train, test = (features(split) for split in splits)
    if not is_main():
        return
    if options.probe == "svm":
        report = svm_report(train, test, splits[1].class_names)
    else:
        counts = (options.ways, options.shots, options.queries, options.repeats)
        report = few_shot_report(train, test, Episodes(*counts))
    seconds = time.perf_counter() - start
    described = describe_checkpoint(options.checkpoint, content, points)
    described = describe_probe(described, content, report.protocol, student, seed)
    tested = {"data": splits[1].name, "split": "test", "shapes": len(test[1])}
    tested["task"] = options.probe
    row = describe_test(described, report.columns, seconds, device, **tested)
    results.append(options.results, row)
    print("\n".join(report.lines))
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
        if not parts:
            raise DataError(f"{options.checkpoint} does not say which parts its categories have")
        lines = part_lines(student, points, content["classes"], parts, options.category, picture)
    if is_main():
        print(f"{options.cloud}: {found} points, {len(points)} used")
        print("\n".join(lines))


if __name__ == "__main__":
    run_main(main)
