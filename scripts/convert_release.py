"""Convert weights that others published into a checkpoint of this project.

    python -m scripts.convert_release IN.pth OUT.pth [--classes NAMES.txt]

IN is a state dict of PointMCD's release (both classification and both part-segmentation students,
the three teachers), of PointCMT's (student, teacher, generator) or of one of the public encoders:
the classification networks of CurveNet, PointMLP (and elite), PointNeXt-S and, in antao97's
PyTorch, DGCNN; PointNet++ SSG and MSG for classification and part segmentation in yanx27's. Which
one it is follows from its names and shapes. The 40 classes of ModelNet40 and the 16 categories of
ShapeNetPart get their names, others those of NAMES.txt. OUT goes into ``test.py OUT --data NAME``,
into ``train_student.py ... init=OUT`` and into ``models.load_model``.

A state dict inside ``model_state_dict``, ``state_dict``, ``model_state``, ``net`` or ``model`` and
the prefix ``module.`` of DataParallel are understood. Nothing but tensors, plain values and NumPy
numbers is ever unpickled.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import hashlib
from pathlib import Path
from typing import Any

from data.sources.shapenetpart import PART_COUNTS, part_names
from models.objective import pack_heads
from models.release.convert import Converted, convert
from utils import checkpoint
from utils.errors import DataError, run_main
from utils.settings import (
    GeneratorConfig,
    StudentConfig,
    StudentModelSettings,
    TeacherConfig,
    TeacherModelSettings,
)
from utils.weights import read_state

MODELNET40 = """
    airplane bathtub bed bench bookshelf bottle bowl car chair cone cup curtain desk door dresser
    flower_pot glass_box guitar keyboard lamp laptop mantel monitor night_stand person piano plant
    radio range_hood sink sofa stairs stool table tent toilet tv_stand vase wardrobe xbox
"""
VIEW_SIDE = 224


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", metavar="IN", help="published state dict")
    parser.add_argument("target", metavar="OUT", help="checkpoint to write")
    parser.add_argument(
        "--classes", metavar="FILE", help="class names (in segmentation, categories), one per line"
    )
    options = parser.parse_args(arguments)
    if Path(options.target).is_dir():
        parser.error(f"OUT {options.target} is a folder: name the checkpoint to write")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    converted = convert(read_state(options.source), options.source)
    release, build = converted.release, converted.build
    classes = read_names(options.classes, build) if options.classes else class_names(build)
    record = training_record(converted, options.source, classes)
    config = configuration(converted)
    network = converted.network
    heads = pack_heads(network.heads)
    checkpoint.save_model(
        options.target, release.role, network, build, classes, config, record, heads
    )
    print(f"{release.name} ({sizes(build)}): {release.role} written to {options.target}")


def sizes(build: dict[str, Any]) -> str:
    """What of a network its file said, in words."""
    if build["task"] == "generation":
        return f"{build['points']} points of {build['code_size']} channels"
    return f"{build['num_classes']} {'parts' if build['num_categories'] else 'classes'}"


def class_names(build: dict[str, Any]) -> list[str]:
    """Names of the classes, in segmentation of the categories; ``class_0`` .. for unknown ones."""
    if build["task"] in ("autoencoder", "generation"):
        return []
    if build["task"] == "segmentation":
        known, count = list(PART_COUNTS), build["num_categories"]
        fits = (build["num_classes"], count) == (sum(PART_COUNTS.values()), len(known))
    else:
        known, count = MODELNET40.split(), build["num_classes"]
        fits = count == len(known)
    return known if fits else [f"class_{place}" for place in range(count)]


def read_names(path: str, build: dict[str, Any]) -> list[str]:
    """The names in a text file; DataError unless there is one for each class or category."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of class names: {error}") from error
    names = [line.strip() for line in lines if line.strip()]  # a name may hold spaces
    count = len(class_names(build))
    if len(names) != count or len(set(names)) != count:
        raise DataError(
            f"{path} lists {len(set(names))} different names on {len(names)} lines, the network "
            f"has {count} classes or categories: expected one line for each, in their order"
        )
    return names


def configuration(converted: Converted) -> dict[str, Any]:
    """What :mod:`test` reads of a configuration: the set, the sizes, the network.

    How the network was trained is not in a published file; everything else is this project's
    default and says nothing about it.
    """
    build = converted.build
    data = {"autoencoder": "ShapeNetCore"} | dict.fromkeys(
        ("classification", "generation"), "ModelNet40"
    )
    name = data.get(build["task"], "ShapeNetPart")
    if build["task"] == "generation":
        data = {"name": name, "points": build["points"]}
        teacher = {"task": build["task"]}
        config = GeneratorConfig(data=data, teacher=teacher, targets={"bank": "unknown"})
        return config.model_dump(mode="json")
    if converted.release.role == "teacher":
        known = TeacherModelSettings.model_fields
        model = {key: value for key, value in build.items() if key in known}
        return TeacherConfig(data={"name": name, "size": VIEW_SIDE}, teacher=model).model_dump(
            mode="json"
        )
    model = {key: v for key, v in build.items() if key in StudentModelSettings.model_fields}
    points = 1024 if build["task"] == "classification" else 2048
    config = StudentConfig(data={"name": name, "points": points}, student=model)
    return config.model_dump(mode="json")


def training_record(converted: Converted, source: str, classes: list[str]) -> dict[str, Any]:
    """The fields of a training, empty, and ``released``: whose weights these are."""
    release = converted.release
    known = converted.build["task"] == "segmentation" and classes == list(PART_COUNTS)
    return {
        "epochs": 0,
        "seconds": 0.0,
        "metrics": {},
        "commit": "",
        "device": "",
        "processes": 0,
        "part_names": {name: part_names(name) for name in classes} if known else {},
        "data_hash": "",
        "recipe_hash": "",
        "val_fraction": 0.0,
        "val_seed": 0,
        "bank": None,
        "method": [release.method],
        "labelled": converted.build["task"] not in ("autoencoder", "generation"),
        "released": {
            "network": release.name,
            "source": release.source,
            "file": Path(source).name,
            "sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest(),
        },
    }


if __name__ == "__main__":
    run_main(main)
