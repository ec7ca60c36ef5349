"""Weights that others published, as weights of our networks.

A published file is a plain state dict: it says neither which network it belongs to nor how many
classes that has. Both follow from the names and shapes of its entries. Every entry has one place in
our network and every place of ours is filled; what does not fit is an error that lists the names.

The networks and their tables are in :mod:`models.release.networks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.generators import build_generator
from models.images.teachers import build_teacher
from models.objective import build_heads
from models.release.networks import RELEASES, Release
from models.release.tables import read_table
from models.students import build_student
from utils.errors import DataError

LEAST_LIKENESS = 0.1  # below it, a few common names (conv1, bn1) make no network


class Converted(NamedTuple):
    """What a file holds: the published network, arguments of our builder, ours with its weights."""

    release: Release
    build: dict[str, Any]
    network: nn.Module


def convert(state: Mapping[str, Tensor], name: str) -> Converted:
    """Recognise a published state dict and load it, nothing left over on either side.

    Args:
        state: of the published network, without the prefix of a wrapper.
        name: what to call it in messages.

    Raises:
        DataError: none of the known networks, or entries that are missing, unknown, of another
            shape or not finite, all named.
    """
    release = recognise(state, name)
    build = dict(release.build)
    if release.classes is not None:
        build["num_classes"] = release.classes.read(state)
    if release.categories is not None:
        build["num_categories"] = release.categories.read(state)
    build |= {name: size.read(state) for name, size in release.sizes.items()}
    if release.options:
        read = {name: size.read(state) for name, size in release.options.items()}
        build["options"] = build.get("options", {}) | read
        build["encoder"] = release.named.get(tuple(read.values()), build["encoder"])
    make = build_student if release.role == "student" else build_teacher
    make = build_generator if build["task"] == "generation" else make
    with torch.device("meta"):  # names and shapes only: every value comes from the file
        network = make(**build)
        build_heads(release.heads, network, name)
    network.load_state_dict(_translate(state, network, release, name), strict=True, assign=True)
    return Converted(release, build, network)


def recognise(state: Mapping[str, Tensor], name: str) -> Release:
    """The release that shares most names with ``state``; DataError where none shares any."""

    def likeness(release: Release) -> float:
        layers = read_table(release.table)
        known = [group for group in (_group(key, layers) for key in state) if group is not None]
        return len(known) * len(set(known)) / len(layers)

    nearest = max(RELEASES, key=likeness)
    if likeness(nearest) < LEAST_LIKENESS * len(state):
        raise DataError(
            f"{name} is none of the networks that can be converted: {_listed(sorted(state))} "
            f"belong to none of {', '.join(release.name for release in RELEASES)}"
        )
    return nearest


def _translate(
    state: Mapping[str, Tensor], network: nn.Module, release: Release, name: str
) -> dict[str, Tensor]:
    """``state`` under our names and in our shapes."""
    published = {ours: theirs for theirs, ours in read_table(release.table).items()}
    translated, missing, misshapen = {}, [], []
    state, unlike = _without_copies(state, read_table(release.copies))
    unused = set(state)
    for key, own in network.state_dict().items():
        group = _group(key, published)
        if group is None and key.endswith(".bias"):  # the published layer has none
            translated[key] = torch.zeros(own.shape, dtype=own.dtype)
            continue
        theirs = published[group] + key.removeprefix(group)
        if theirs not in state:
            if key.endswith("num_batches_tracked"):  # files of old versions have none
                translated[key] = torch.zeros((), dtype=torch.int64)
            else:
                missing.append(theirs)
            continue
        unused.remove(theirs)
        value = state[theirs]
        if not _fits(value.shape, own.shape):
            misshapen.append(f"{theirs} {tuple(value.shape)} for {tuple(own.shape)}")
            continue
        value = value.reshape(own.shape).to(own.dtype)
        layer = theirs.removesuffix(".weight")
        if layer in release.offset_last:
            value = value.roll(3, dims=1)
        if layer in release.difference_first:
            value = value.roll(value.shape[1] // 2, dims=1)
        translated[key] = value.clone(memory_format=torch.contiguous_format)
    broken = sorted(k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all())
    faults = {
        "missing": missing,
        "unexpected": sorted(unused),
        "of another shape": misshapen,
        "not finite": broken,
        "unlike their copies": unlike,
    }
    found = [f"{what}: {_listed(keys)}" for what, keys in faults.items() if keys]
    if found:
        raise DataError(
            f"{name} does not hold the weights of {release.name} ({release.source}), the network "
            f"that is nearest to it; {'; '.join(found)}"
        )
    return translated


def _without_copies(
    state: Mapping[str, Tensor], copies: Mapping[str, str]
) -> tuple[dict[str, Tensor], list[str]]:
    """``state`` with every entry once, and the names of copies that differ from their original.

    ``copies``: names of layers that a file may hold twice, with those that our tables know.
    """
    once, unlike = dict(state), []
    for key in state:
        group = _group(key, copies)
        if group is None:
            continue
        original = copies[group] + key.removeprefix(group)
        value = once.pop(key)
        if not torch.equal(once.setdefault(original, value), value):
            unlike.append(key)
    return once, unlike


def _fits(published: torch.Size, own: torch.Size) -> bool:
    """The same but for axes of length 1, which 1 x 1 convolutions have and matrix products lack."""
    return [size for size in published if size != 1] == [size for size in own if size != 1]


def _group(key: str, names: Mapping[str, str]) -> str | None:
    """The longest beginning of a dotted name that is in ``names``."""
    while key and key not in names:
        key = key.rpartition(".")[0]
    return key or None


def _listed(keys: list[str]) -> str:
    return ", ".join(keys) or "nothing"
