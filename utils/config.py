"""Configuration: a recipe in YAML, sets laid over it, typed defaults, ``a.b=c`` overrides.

A recipe holds only what differs from its ``parent`` (a path relative to itself), a set what a data
set changes of a recipe; the defaults are the fields of a pydantic model (``utils/settings.py``). An
unknown key or a wrong type is an error that names the key and, where one is near, the key that was
probably meant.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from utils.errors import ConfigError

Settings = TypeVar("Settings", bound=BaseModel)
EXAMPLE = "scripts/configs/recipes/pointnet.yaml"
RENAMED = {  # keys of earlier configurations, or their groups -> what they are called now
    "data.balanced": "data.class_balanced",
    "data.resident": "data.cache_on_device",
    "distill.bank": "targets.bank",
    "distill.distance": "terms.alignment.distance",
    "distill.method": "method",
    "distill.pooling": "terms.alignment.pooling",
    "distill.shuffle_codes": "targets.shuffle",
    "distill.views": "targets.views",
    "distill.visibility": "targets.visibility",
    "loss.distill": "terms.alignment.weight",
    "loss.pixel": "terms.pixels.weight or terms.reconstruction.weight",
    "loss.shape": "terms.task.weight",
    "loss.task": "terms.task.weight",
    "loss.transform": "terms.transform.weight",
    "loss.view": "terms.views.weight",
    "optim.clip": "optim.clip_grad",
    "optim.final_lr": "optim.min_lr",
    "run.restart": "run.overwrite",
    "run.runs": "run.dir",
    "student.smoothing": "terms.task.smoothing",
    "teacher.smoothing": "terms.task.smoothing and terms.views.smoothing",
}


def positive(text: str) -> int:
    """A whole number above 0, as a ``type`` for argparse."""
    if (number := int(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def not_negative(text: str) -> int:
    """A whole number, 0 or above, as a ``type`` for argparse."""
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` when a known name is near, else an empty string."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def load_config(
    schema: type[Settings] | Callable[[dict[str, Any]], type[Settings]], arguments: Sequence[str]
) -> Settings:
    """Build settings from command-line arguments: YAML files and ``a.b=c`` overrides.

    The files are merged from left to right; overrides have the last word wherever they stand.

    Args:
        schema: of the settings, or what chooses it by the values that are given.

    Raises:
        ConfigError: no file, a missing or malformed one, a set without a recipe before it, an
            unknown key, a value of the wrong type or out of range.
    """
    if {"-h", "--help"} & set(arguments):
        given = [word for word in arguments if not word.startswith("-")]
        values = _read_values(given) if any(map(is_file, given)) else {}
        print(describe_keys(schema if isinstance(schema, type) else schema(values)))
        raise SystemExit(0)
    values = _read_values(arguments)
    return validate(schema if isinstance(schema, type) else schema(values), values)


def _read_values(arguments: Sequence[str]) -> dict[str, Any]:
    files = list(filter(is_file, arguments))
    check_order(files)
    values: dict[str, Any] = {}
    for file in files:
        values = merge(values, read_yaml(file))
    for argument in arguments:
        if not is_file(argument):
            override(values, argument)
    return values


def is_file(argument: str) -> bool:
    """Whether an argument names a file; others are overrides, whose value may be a path."""
    key, equals, _ = argument.partition("=")
    return not equals or "/" in key


def check_order(files: Sequence[str]) -> None:
    """Recipes come before sets, which they would undo; files of other folders may stand anywhere.

    Raises:
        ConfigError: no file, a set that is the first, a recipe after a set, several recipes.
    """
    if not files:
        raise ConfigError(f"found no YAML file, expected a recipe such as {EXAMPLE}")
    folders = [Path(file).resolve().parent.name for file in files]
    if folders[0] == "sets":
        raise ConfigError(f"found the set {files[0]} first, expected a recipe such as {EXAMPLE}")
    if "sets" in folders and "recipes" in folders[folders.index("sets") :]:
        raise ConfigError(f"found a recipe after a set in {' '.join(files)}: give recipes first")
    if folders.count("recipes") > 1:
        raise ConfigError(f"found several recipes in {' '.join(files)}: give one, then sets")


def describe_keys(schema: type[BaseModel]) -> str:
    """How to call a configured program, and every key with its default."""
    lines = [
        "usage: RECIPE.yaml [SET.yaml ...] [group.key=value ...]",
        "scripts/configs/ has the shipped recipes/ and sets/; keys and their defaults:",
    ]
    return "\n".join([*lines, *_key_lines(schema, "")])


def _key_lines(schema: type[BaseModel], prefix: str) -> list[str]:
    lines = []
    for name, field in schema.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            lines += _key_lines(group, f"{prefix}{name}.")
        else:
            shown = "(required)" if field.is_required() else field.default
            lines.append(f"  {prefix}{name}={shown}")
    return lines


def read_yaml(path: str | Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a YAML file on top of its parent's, without ``parent`` itself."""
    path = Path(path)
    if path.resolve() in seen:
        raise ConfigError(f"{path} is its own ancestor: a configuration has one parent, in a line")
    if not path.is_file():
        raise ConfigError(
            f"no configuration file {path}: expected YAML files, see scripts/configs/recipes and "
            "sets, and group.key=value overrides"
        )
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, found {type(values).__name__}")
    parent = values.pop("parent", None)
    if parent is None:
        return values
    return merge(read_yaml(path.parent / str(parent), (*seen, path.resolve())), values)


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` laid over ``base``, mapping by mapping; other values are replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def override(values: dict[str, Any], argument: str) -> None:
    """Set ``a.b=c`` in ``values``; the right side is read as YAML (numbers, lists, null, true)."""
    key, _, text = argument.partition("=")
    *groups, last = key.split(".")
    if not all([*groups, last]):
        raise ConfigError(f"cannot read the override {argument!r}: expected group.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value in {argument!r}: {error}") from error
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{argument!r}: {group!r} is a value, not a group of keys")
    values[last] = value


def validate(schema: type[Settings], values: dict[str, Any]) -> Settings:
    """``values`` as checked settings; every problem is named in one ConfigError."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        # an unknown key first: it is often the misspelt one that is then missing
        items = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        problems = "; ".join(_describe(schema, item) for item in items)
        raise ConfigError(problems) from error


def _describe(schema: type[BaseModel], item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        values = item["input"] if isinstance(item["input"], dict) else {}
        old = [name for name in (key, *(f"{key}.{inner}" for inner in values)) if name in RENAMED]
        if old:
            return ", ".join(f"{name} is called {RENAMED[name]} now" for name in old)
        known = _keys(schema, location[:-1])
        return f"unknown key {key!r}, known here: {known}{did_you_mean(location[-1], known)}"
    if item["type"] == "missing":
        if key in schema.model_fields:  # a whole group: what it must hold
            group = schema.model_fields[key].annotation.model_fields
            key += "." + next(name for name, field in group.items() if field.is_required())
        return f"{key} is required: give it in a YAML file, such as a set, or as {key}=VALUE"
    if item["type"] == "value_error":  # of a whole group
        return f"{key}: {item['msg'].removeprefix('Value error, ')}"
    return f"{key}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _keys(schema: type[BaseModel], groups: Sequence[str]) -> list[str]:
    """The field names of the group that ``groups`` leads to."""
    for group in groups:
        schema = schema.model_fields[group].annotation
    return list(schema.model_fields)


def dump_yaml(settings: BaseModel) -> str:
    """The resolved settings as YAML, in the order of the schema."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def differences(found: dict[str, Any], expected: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys in which two nested mappings differ, as ``a.b: found X, expected Y``."""
    lines = []
    for key in sorted(found.keys() | expected.keys()):
        one, two = found.get(key), expected.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            lines += differences(one, two, f"{prefix}{key}.")
        elif one != two:
            lines.append(f"{prefix}{key}: found {one!r}, expected {two!r}")
    return lines
