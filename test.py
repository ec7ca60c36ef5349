"""Test a teacher or student, or name the class of one cloud.

    python test.py ckpt/student/RUN.pth                overall and mean class accuracy, per class
    python test.py ckpt/student/RUN.pth --cloud FILE   classes of one unlabelled cloud, with scores

One forward pass, no voting, on the last epoch's weights. A row is added to expt/results.csv and
the confusion matrix is drawn to expt/pictures/. Under ``torchrun`` the shapes are shared out.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.batches import carve_validation
from data.clouds import normalise_cloud, read_cloud
from data.datasets import Part, PointSet, ViewSet
from data.sampling import farthest_point_order
from data.storage import open_split
from utils import results
from utils.checkpoint import build_model, fingerprint, read_model
from utils.config import not_negative, positive
from utils.device import choose_device, describe, prepare_process
from utils.distributed import is_main, process_group
from utils.engine import predict
from utils.errors import ConfigError, DataError, run_main
from utils.metrics import ClassificationScore, confusion_matrix, score
from utils.pictures import confusion_figure, save_figure


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="of train_teacher.py or train_student.py")
    parser.add_argument("--cloud", help="a ply, xyz, txt, npy or off file to classify")
    parser.add_argument("--up", default="z", choices=["x", "y", "z"], help="up axis of --cloud (z)")
    parser.add_argument("--top", type=positive, default=5, help="classes to print for --cloud (5)")
    parser.add_argument("--split", default="test", choices=["test", "val", "train"])
    parser.add_argument("--data", help="prepared set; default: the one of the training")
    parser.add_argument("--root", help="folder of the prepared sets; default: as in training")
    parser.add_argument("--results", default="expt/results.csv", help="table to add the row to")
    parser.add_argument(
        "--pictures", default="expt/pictures", help="folder of the confusion matrix"
    )
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=not_negative, default=0, help="on a CPU; 0: all")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = choose_device(options.device)
    prepare_process(device, options.threads)
    with process_group(device):
        if options.cloud:
            classify_cloud(options, device)
        else:
            test(options, device)


def classify_cloud(options: argparse.Namespace, device: torch.device) -> None:
    """Print the classes of one cloud by score; needs the student's checkpoint and nothing else."""
    content = read_model(options.checkpoint, "student")
    count = content["config"]["data"]["points"]
    points = normalise_cloud(read_cloud(options.cloud), options.up)
    found = len(points)
    points = points[farthest_point_order(points, min(count, found))]
    student = build_model(content, options.checkpoint).to(device)
    with torch.no_grad():
        logits = student(torch.from_numpy(points).unsqueeze(0).to(device)).logits[0]
    scores = logits.float().softmax(dim=0).cpu().numpy()
    if is_main():
        print(f"{options.cloud}: {found} points, {len(points)} used")
        for place in np.argsort(-scores)[: options.top]:
            print(f"{100 * scores[place]:6.2f} %  {content['classes'][place]}")


def test(options: argparse.Namespace, device: torch.device) -> None:
    content = read_model(options.checkpoint)
    network = build_model(content, options.checkpoint).to(device)
    start = time.perf_counter()
    part = _tested_part(options, content)
    data = content["config"]["data"]
    if content["role"] == "student":
        field, shapes = "points", PointSet(part, data["points"], device)
    else:
        field, shapes = "views", ViewSet(part, device, data["size"], data["workers"], keep=False)
    outputs = predict(network, shapes.evaluation(options.batch_size), field, ("logits",))
    seconds = time.perf_counter() - start
    if not is_main():
        return
    classes = content["classes"]
    confusion = confusion_matrix(outputs["label"], outputs["logits"].argmax(axis=1), len(classes))
    result = score(confusion)
    name = Path(options.checkpoint).stem
    picture = Path(options.pictures) / f"{name}_{part.split.name}_{options.split}.png"
    save_figure(confusion_figure(confusion, classes), picture)
    _print_report(result, confusion, classes)
    print(f"confusion matrix: {picture}")
    results.append(options.results, _row(options, content, part, result, seconds, device))
    print(
        f"{name} on {part.split.name} {options.split}, {len(part.members)} shapes: overall "
        f"accuracy {result.overall:.1f} %, mean class accuracy {result.mean_class:.1f} %"
    )


def _tested_part(options: argparse.Namespace, content: dict[str, Any]) -> Part:
    """The shapes to test on; the classes must be the checkpoint's."""
    data, training = content["config"]["data"], content["training"]
    name, root = options.data or data["name"], options.root or data["root"]
    split = open_split(name, "test" if options.split == "test" else "train", root)
    if split.class_names != content["classes"]:
        raise DataError(
            f"{options.checkpoint} knows {len(content['classes'])} classes "
            f"({content['classes'][0]}, ...), {name} has {len(split.class_names)} "
            f"({split.class_names[0]}, ...): they must be the same classes in the same order"
        )
    if options.split == "test":
        return Part(split, np.arange(len(split.ids)))
    if options.split == "val" and training["val_fraction"] == 0:
        raise ConfigError(
            f"{options.checkpoint} was trained without a validation part (protocol.val_fraction=0)"
        )
    if split.data_hash != training["data_hash"]:
        raise DataError(
            f"{options.checkpoint} was trained on shapes {training['data_hash']}, {name} holds "
            f"{split.data_hash}: its held-out part is not known there; use --split test"
        )
    train, held_out = carve_validation(split.labels, training["val_fraction"], training["val_seed"])
    return Part(split, held_out if options.split == "val" else train)


def _print_report(result: ClassificationScore, confusion: np.ndarray, classes: list[str]) -> None:
    width = max(len(name) for name in classes)
    print(f"{'class':{width}}  shapes  accuracy  most often taken for")
    for place, name in enumerate(classes):
        others = confusion[place].copy()
        others[place] = 0
        taken = classes[others.argmax()] if others.any() else "-"
        print(
            f"{name:{width}}  {confusion[place].sum():6d}  {result.per_class[place]:8.1f}  {taken}"
        )


def _row(
    options: argparse.Namespace,
    content: dict[str, Any],
    part: Part,
    result: ClassificationScore,
    seconds: float,
    device: torch.device,
) -> results.Result:
    config, training = content["config"], content["training"]
    student = content["role"] == "student"
    held_out = training["val_fraction"]
    train = config["train"]
    return results.Result(
        time=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        role=content["role"],
        run=Path(options.checkpoint).stem,
        data=part.split.name,
        split=options.split,
        protocol="last epoch" + (f", {held_out:g} of train held out" if held_out else ""),
        model=content["build"]["encoder" if student else "backbone"],
        method=method_label(config) if student else "-",
        recipe=recipe_label(config),
        points=config["data"]["points"] if student else 0,
        epochs=training["epochs"],
        seed=train["seed"],
        shapes=len(part.members),
        overall=round(result.overall, 3),
        mean_class=round(result.mean_class, 3),
        train_seconds=round(training["seconds"], 1),
        test_seconds=round(seconds, 1),
        train_device=training["device"],
        device=describe(device),
        commit=training["commit"],
        checkpoint=fingerprint(content["model"]),
    )


def recipe_label(config: dict[str, Any]) -> str:
    """Loss weights in force, optimiser, batch, precision and a head that is not the default."""
    weights = " ".join(f"{name} {value:g}" for name, value in config["loss"].items() if value)
    optim, train = config["optim"], config["train"]
    head = config.get("student", {}).get("head", "default")
    chosen = "" if head == "default" else f", {head} head"
    precision = "" if train["amp"] == "none" else f", {train['amp']}"
    steps = f"{optim['name']} {optim['lr']:g}, batch {train['batch_size']}"
    return f"{weights}; {steps}{precision}{chosen}"


def method_label(config: dict[str, Any]) -> str:
    """``baseline`` without distillation, else the method and what was done to its codes."""
    if not config["loss"].get("distill"):
        return "baseline"
    control = ", shuffled codes" if config["distill"]["shuffle_codes"] else ""
    return config["distill"]["method"] + control


if __name__ == "__main__":
    run_main(main)
