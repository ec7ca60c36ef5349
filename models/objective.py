"""What is minimised: the weighted sum of a run's loss terms, around the network that it trains.

A method is a recipe of terms (:mod:`models.terms`); terms of several papers combine by giving each
a weight. Teachers and students train alike.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.terms import TERMS
from models.terms.base import Batch, Shape, Term
from utils.errors import ConfigError, DataError
from utils.fields import Field
from utils.settings import TermSettings
from utils.weights import load_matching


def wanted_fields(terms: Mapping[str, TermSettings], network: nn.Module) -> set[str]:
    """The batch fields that these terms and the network read.

    Raises:
        ConfigError: no term to learn from, one that cannot train this network, or two that want
            different shapes of a field.
    """
    _check_terms(terms, network)
    wanted: dict[str, tuple[str, Shape]] = {}
    for name, settings in terms.items():
        for field, shape in TERMS[name].reads(settings, network).items():
            if shape is None:
                continue
            other, already = wanted.setdefault(field, (name, shape))
            if not _agree(shape, already):
                raise ConfigError(
                    f"terms.{name} reads {field} of shape {_words(shape)}, terms.{other} of shape "
                    f"{_words(already)}: one batch cannot hold both, set one weight to 0"
                )
    read = {field for n, settings in terms.items() for field in TERMS[n].reads(settings, network)}
    return {*network.fields, *read}


def _check_terms(terms: Mapping[str, TermSettings], network: nn.Module) -> None:
    role = "student" if "points" in network.fields else "teacher"
    tasks = {name: term.roles.get(role, ()) for name, term in TERMS.items()}
    if not any(TERMS[name].learns_from for name in terms):
        known = [n for n in TERMS if network.task in tasks[n] and TERMS[n].learns_from]
        raise ConfigError(
            f"nothing to learn from: expected a weight above 0 for one of {', '.join(known)}, such "
            f"as terms.{known[0]}.weight=1"
        )
    for name in terms:
        if network.task not in tasks[name]:
            raise ConfigError(
                f"terms.{name} trains a {role} for {' or '.join(tasks[name])}, found "
                f"{role}.task={network.task}: set terms.{name}.weight=0"
            )


def _agree(one: Iterable[int | None], two: Iterable[int | None]) -> bool:
    one, two = tuple(one), tuple(two)
    pairs = zip(one, two, strict=False)
    return len(one) == len(two) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def _words(shape: Iterable[int | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


@dataclass
class ObjectiveOutput:
    """The unweighted losses by the names of their terms, each a scalar, and what the accuracy of
    training is made of: ``logits`` (..., K), without gradient, and ``target`` (...) int64, -1 where
    there is none; None where no term knows classes.

    Every gradient goes through a loss: DistributedDataParallel would wait for one of the classifier
    if the logits carried their graph out and no active term read them.
    """

    losses: dict[str, Tensor]
    logits: Tensor | None = None
    target: Tensor | None = None


class Objective(nn.Module):
    """The terms of a run and the network that they train.

    Args:
        network: what stays after training; a student or a teacher.
        terms: of :func:`models.terms.active_terms`. Their heads are made here, in this order.
        fields: what the batches hold of every shape.
        cameras: see :meth:`models.terms.base.Term.begin`.

    Raises:
        ConfigError: a field of another shape than a term wants, or what a term refuses.
    """

    def __init__(
        self,
        network: nn.Module,
        terms: Mapping[str, TermSettings],
        fields: Mapping[str, Field],
        cameras: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network = network
        self.weights = {name: settings.weight for name, settings in terms.items()}
        for name, settings in terms.items():
            for field, shape in TERMS[name].reads(settings, network).items():
                if shape is not None and not _agree(shape, fields[field].shape):
                    raise ConfigError(
                        f"terms.{name} reads {field} of shape {_words(shape)} per shape, found "
                        f"{_words(fields[field].shape)}: give it other data or another bank, or "
                        f"set terms.{name}.weight=0"
                    )
        self.terms = nn.ModuleDict(
            {name: TERMS[name](settings, network, fields) for name, settings in terms.items()}
        )
        # of several terms that know classes, the first tells the accuracy of training
        judges = (n for n, term in self.terms.items() if type(term).judge is not Term.judge)
        self.judge = next(judges, None)
        for term in self.terms.values():
            term.begin(cameras or {})
            if set(term.modules()) & set(term.frozen.values()):
                raise RuntimeError(f"terms.{term.name}: a frozen module is an attribute of it too")

    @property
    def trains_all(self) -> bool:
        """Whether the terms give every parameter a gradient."""
        return any(term.trains_all for term in self.terms.values())

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of what the terms read of files, a part of what a run computes."""
        return {n: mark for term in self.terms.values() for n, mark in term.inputs.items()}

    @property
    def not_in_graph(self) -> list[str]:
        """The terms that a CUDA graph cannot hold."""
        return [name for name, term in self.terms.items() if not term.in_graph]

    def forward(self, batch: Batch) -> ObjectiveOutput:
        terms = self.terms.values()
        output = None
        if any(term.reads_output for term in terms):
            output = self.network.forward_batch(batch)
        found = ObjectiveOutput({n: term(batch, output) for n, term in self.terms.items()})
        if self.judge is not None:
            logits, found.target = self.terms[self.judge].judge(batch, output)
            found.logits = logits.detach()
        return found

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the terms: the scalar to minimise."""
        return sum(self.weights[name] * value for name, value in losses.items())


def pack_heads(terms: Mapping[str, Term]) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps of the terms that have heads: plain values and tensors."""
    packed = {}
    for name, term in terms.items():
        state = {key: value.detach().cpu() for key, value in term.state_dict().items()}
        if state:
            fields = {
                field: {"shape": list(found.shape), "signed": found.signed}
                for field, found in term.fields.items()
            }
            settings = term.settings.model_dump(mode="json")
            packed[name] = {"settings": settings, "fields": fields, "state": state}
    return packed


def build_heads(packed: Mapping[str, Any], network: nn.Module, path: str | Path) -> None:
    """Give ``network`` the heads of :func:`pack_heads`, in evaluation mode; those of terms that are
    not registered here are left out, which is said. Without a ``state`` they have fresh weights.

    Raises:
        DataError: a head that does not fit its own description.
    """
    for name in packed.keys() - TERMS.keys():
        print(f"{path}: left out the head of terms.{name}, unknown here", file=sys.stderr)
    for name in (name for name in TERMS if name in packed):
        try:
            settings = TERMS[name].Settings.model_validate(packed[name]["settings"])
            fields = {
                field: Field(tuple(found["shape"]), found["signed"])
                for field, found in packed[name]["fields"].items()
            }
            term = TERMS[name](settings, network, fields)
        except (LookupError, TypeError, ValueError, RuntimeError, ConfigError) as error:
            raise DataError(
                f"the description of terms.{name} in {path} fits no head: {error}"
            ) from error
        if "state" in packed[name]:
            load_matching(term, packed[name]["state"], path, f"the head of terms.{name}")
        network.heads[name] = term.eval()
