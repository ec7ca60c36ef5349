"""Model checkpoints of version 1, in the words of version 2.

Version 1 had one method with a fixed set of losses: their weights under ``loss``, their options
under ``distill`` and beside the network's own, and the projection inside the student.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.errors import DataError

CODE_SIZE, SMOOTHING = 512, 0.2  # of all teachers; unless a configuration says otherwise
PROJECTION = "projection."
BUILD = {"task": "classification", "num_categories": 0}  # what the first files leave out
WORDS = {  # group -> key then -> key now
    "data": {"balanced": "class_balanced", "resident": "cache_on_device"},
    "optim": {"final_lr": "min_lr", "clip": "clip_grad"},
    "run": {"runs": "dir", "restart": "overwrite"},
}
STUDENT_TERMS = {"transform": "transform", "task": "task", "distill": "alignment"}
TEACHER_TERMS = {"shape": "task", "view": "views", "pixel": "pixels"}


def upgrade(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of version 1 as version 2 would hold it.

    Raises:
        DataError: it lacks what every checkpoint of that version has.
    """
    try:
        student = content["role"] == "student"
        return (_upgrade_student if student else _upgrade_teacher)(content) | {"version": 2}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} lacks {error}; it is damaged or was edited") from error


def _upgrade_student(content: dict[str, Any]) -> dict[str, Any]:
    config, build = content["config"], BUILD | content["build"]
    loss, old = config["loss"], config["distill"]
    options = {name: old[name] for name in ("pooling", "distance") if name in old}
    settings = {
        "task": {"smoothing": config["student"].get("smoothing", SMOOTHING)},
        "alignment": options,
    }
    terms = _terms(loss, STUDENT_TERMS, settings)
    shuffle = "all" if old.get("shuffle_codes") else "none"
    targets = {name: old.get(name, "stored" if name == "visibility" else None) for name in TARGETS}
    model, heads = content["model"], {}
    if build.pop("projection", False):
        state = {
            f"head.{k.removeprefix(PROJECTION)}": v
            for k, v in model.items()
            if k.startswith(PROJECTION)
        }
        model = {k: v for k, v in model.items() if not k.startswith(PROJECTION)}
        wanted = {"weight": loss.get("distill", 0.0), **options}
        heads["alignment"] = {"settings": wanted, "fields": _fields(options), "state": state}
    labelled = bool(loss.get("task"))
    label = _label(old) if loss.get("distill") else ["baseline"]
    return {
        **content,
        "build": build,
        "model": model,
        "heads": heads,
        "config": _reworded(config, {"loss", "distill"})
        | {"method": old["method"], "terms": terms, "targets": targets | {"shuffle": shuffle}},
        "training": content["training"] | {"method": label, "labelled": labelled},
    }


TARGETS = ("bank", "views", "visibility")


def _upgrade_teacher(content: dict[str, Any]) -> dict[str, Any]:
    config, build = content["config"], BUILD | content["build"]
    task = build["task"]
    names = TEACHER_TERMS | ({"pixel": "reconstruction"} if task == "autoencoder" else {})
    smoothing = {"smoothing": config["teacher"].get("smoothing", SMOOTHING)}
    terms = _terms(config["loss"], names, {"task": smoothing, "views": smoothing})
    return {
        **content,
        "build": build,
        "heads": {},
        "config": _reworded(config, {"loss"}) | {"terms": terms},
        "training": content["training"] | {"method": [], "labelled": task != "autoencoder"},
    }


def _terms(
    loss: dict[str, float], names: dict[str, str], options: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The terms in force, in their order, with what is known of their options."""
    return {
        new: {"weight": loss[old], **options.get(new, {})}
        for old, new in names.items()
        if loss.get(old)
    }


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    codes = {"shape": [CODE_SIZE], "signed": False}
    if options.get("pooling") == "global":
        return {"codes": codes}
    unknown = {"shape": [0, 0], "signed": False}  # of the points; the head does not depend on it
    return {"view_codes": {**codes, "shape": [0, CODE_SIZE]}, "visibility": unknown}


def _label(old: dict[str, Any]) -> list[str]:
    """The method and what was exchanged in it, as tables name it."""
    words = {
        "pooling": ("visible", "{} pooling"),
        "distance": ("l1", "{}"),
        "visibility": ("stored", "visibility {}"),
        "views": (None, "{} views"),
        "shuffle_codes": (False, "shuffled codes"),
    }
    changed = [
        word.format(old[n]) for n, (usual, word) in words.items() if old.get(n, usual) != usual
    ]
    return [old["method"], *changed]


def _reworded(config: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
    """The configuration with today's names of its other keys."""
    kept = {group: value for group, value in config.items() if group not in left_out}
    for group, words in WORDS.items():
        kept[group] = {words.get(key, key): value for key, value in kept[group].items()}
    for model in {"student", "teacher"} & kept.keys():
        kept[model] = {key: v for key, v in kept[model].items() if key != "smoothing"}
    return kept
