"""What a row of the table of results says of a checkpoint."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.checkpoint import fingerprint
from utils.device import describe
from utils.results import Result
from utils.tasks.voting import PASSES


def describe_checkpoint(
    path: str | Path,
    content: Mapping[str, Any],
    network: nn.Module,
    points: int | None = None,
    votes: int | None = None,
) -> dict[str, Any]:
    """The columns that a checkpoint fills, whatever it is tested on.

    Args:
        network: of the checkpoint, with the heads of its loss terms.
        points: how many are used of a cloud, if not as many as in training.
        votes: how many votes are averaged; None: one pass.
    """
    config, training = content["config"], content["training"]
    student, released = content["role"] == "student", training.get("released")
    memory = training.get("memory")  # None: of a run before it was measured, or of others
    return {
        "role": content["role"],
        "run": Path(path).stem,
        "protocol": protocol_label(training, votes),
        "model": content["build"]["encoder" if student else "backbone"],
        "method": method_label(content) if student else "-",
        "recipe": f"released, {released['source']}" if released else recipe_label(config),
        "points": (points or config["data"]["points"]) if student else 0,
        "epochs": training["epochs"],
        "seed": config["train"]["seed"],
        "train_seconds": round(training["seconds"], 1),
        "train_device": training["device"],
        "commit": training["commit"],
        "checkpoint": fingerprint(content["model"]),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "memory": None if memory is None else round(memory, 1),
    }


def describe_probe(
    described: Mapping[str, Any],
    content: Mapping[str, Any],
    protocol: str,
    network: nn.Module,
    random_seed: int | None,
) -> dict[str, Any]:
    """The same for a probe: which features are read, and how.

    Args:
        described: of :func:`describe_checkpoint`. network: the probed one.
        random_seed: of a network that was not trained; its row is not one of the checkpoint.
    """
    if random_seed is None:
        config = content["config"]
        labels = "" if content["training"]["labelled"] else " without labels"
        method = f"{method_label(content)} on {Path(config['data']['name']).name}{labels}"
        return {**described, "protocol": protocol, "method": method}
    return {
        **described,
        "run": f"{described['run']}_random{random_seed}",
        "protocol": protocol,
        "method": "random weights",
        "recipe": "-",
        "epochs": 0,
        "seed": random_seed,
        "train_seconds": 0.0,
        "memory": None,
        "checkpoint": fingerprint(network.state_dict()),
    }


def describe_test(
    described: Mapping[str, Any],
    columns: Mapping[str, float],
    seconds: float,
    device: torch.device,
    **tested: Any,
) -> Result:
    """The row of a test.

    Args:
        described: of the functions above. columns: what was measured. seconds: how long it took.
        tested: the columns ``data``, ``split``, ``shapes`` and ``task``.
    """
    measured = {"mean_class": None, **{name: round(value, 3) for name, value in columns.items()}}
    return Result(
        time=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        test_seconds=round(seconds, 1),
        device=describe(device),
        **described,
        **tested,
        **measured,
    )


def protocol_label(training: Mapping[str, Any], votes: int | None = None) -> str:
    """Which weights were tested, what of train they were not trained on, and a vote."""
    vote = f", vote mean of {votes} x {PASSES} passes" if votes else ""
    if training.get("released"):
        return "released weights" + vote
    held_out = training["val_fraction"]
    return "last epoch" + (f", {held_out:g} of train held out" if held_out else "") + vote


def recipe_label(config: Mapping[str, Any]) -> str:
    """Loss weights in force, optimiser, batch, precision and a head that is not the default."""
    weights = " ".join(f"{name} {term['weight']:g}" for name, term in config["terms"].items())
    optim, train = config["optim"], config["train"]
    model = config.get("student") or config.get("teacher") or {}
    head = model.get("head", "default")
    usual = ("default",) if "student" in config else ("default", "pointmcd")
    chosen = "" if head in usual else f", {head} head"
    precision = "" if train["amp"] == "none" else f", {train['amp']}"
    steps = f"{optim['name']} {optim['lr']:g}, batch {train['batch_size']}"
    return f"{weights}; {steps}{precision}{chosen}"


def method_label(content: Mapping[str, Any]) -> str:
    """What taught a student, as its training labelled it, and where its encoder started, if not at
    random."""
    started = content["config"].get("init")
    start = f", from {re.sub(r'_s[0-9]+', '', Path(started).stem)}" if started else ""  # any seed
    return ", ".join(content["training"]["method"]) + start
