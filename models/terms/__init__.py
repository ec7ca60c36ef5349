"""Loss terms by name. Their order here is the one in which losses are summed and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import create_model

from models.terms.alignment import Alignment
from models.terms.base import Term
from models.terms.classifier import Classifier
from models.terms.feature import Feature
from models.terms.generation import Generation
from models.terms.logits import Logits
from models.terms.pixels import Pixels
from models.terms.reconstruction import Reconstruction
from models.terms.similarity import Similarity
from models.terms.task import Task
from models.terms.transform import Transform
from models.terms.views import Views
from utils.errors import ConfigError
from utils.settings import GeneratorConfig, StudentConfig, TeacherConfig, Terms, TermSettings

Config = TypeVar("Config", StudentConfig, TeacherConfig, GeneratorConfig)
TERMS: dict[str, type[Term]] = {}


def register(term: type[Term]) -> type[Term]:
    """Make a term known by its ``name``."""
    TERMS[term.name] = term
    return term


for _term in (
    *(Transform, Task, Alignment, Feature, Classifier, Logits, Similarity),
    *(Views, Pixels, Reconstruction, Generation),
):
    register(_term)


def with_terms(schema: type[Config]) -> type[Config]:
    """One of the configurations with the settings of the terms of its networks, for
    :func:`utils.config.load_config`: an unknown term or option is then refused like any key."""
    role = "student" if issubclass(schema, StudentConfig) else "teacher"
    fields: dict[str, Any] = {
        name: (term.Settings, term.Settings()) for name, term in TERMS.items() if role in term.roles
    }
    terms = create_model("Terms", __base__=Terms, **fields)
    return create_model(schema.__name__, __base__=schema, terms=(terms, terms()))


def teacher_schema(values: Mapping[str, Any]) -> type[TeacherConfig | GeneratorConfig]:
    """The configuration of ``train_teacher.py`` that the values of its files ask for: a generator
    has other data and no backbone."""
    teacher = values.get("teacher")
    task = teacher.get("task") if isinstance(teacher, Mapping) else None
    return with_terms(GeneratorConfig if task == "generation" else TeacherConfig)


def active_terms(terms: Terms) -> dict[str, TermSettings]:
    """The settings of the terms with a weight above 0, in the registered order."""
    given = {name: getattr(terms, name) for name in type(terms).model_fields}
    return {name: settings for name, settings in given.items() if settings.weight > 0}


def sources(terms: Mapping[str, TermSettings]) -> set[str]:
    """What these terms learn from: some of ``labels``, ``teacher`` and ``shapes``. The logits of a
    teacher count as labels too: they say what the classes of the network mean."""
    found = {TERMS[name].learns_from for name in terms} - {None}
    return found | {"labels" for name in terms if TERMS[name].names_classes}


def method_label(method: str, terms: Mapping[str, TermSettings]) -> list[str]:
    """``baseline`` if no term learns from a teacher or from the shapes themselves, whatever the
    ``method`` is called; otherwise the method, and behind it what is exchanged in these terms.

    Raises:
        ConfigError: a method called baseline that is none.
    """
    taught = {n: s for n, s in terms.items() if TERMS[n].learns_from in ("teacher", "shapes")}
    if not taught:
        return ["baseline"]
    if method == "baseline":
        raise ConfigError(
            f"found method=baseline with a weight for {', '.join(taught)}, expected another name: "
            "it is the label in tables"
        )
    changes = [change for n, settings in taught.items() for change in TERMS[n].changes(settings)]
    return [method, *changes]
