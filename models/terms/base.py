"""What a loss term is: one idea, one file of this folder, one entry of ``TERMS``.

To add a term, write one file with a subclass of :class:`Term` and register it in
``models/terms/__init__.py``. It says which fields of a batch it reads, so that the data side loads
nothing else, and owns the heads that exist for it. A recipe gives it a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from utils.fields import Field
from utils.settings import TermSettings

Batch = dict[str, Tensor]
Shape = tuple[int | None, ...]  # None: any size


class Term(nn.Module):
    """One loss, its options and its heads.

    Subclasses set ``name`` (its key below ``terms`` of a configuration) and, where they differ from
    what stands here, the attributes below. Modules assigned to the term are heads: they are trained
    and saved beside the network, and :func:`models.load_model` gives them back as
    ``network.heads[name]``. A network that is not trained goes through :meth:`freeze`.

    Args:
        settings: of the class ``Settings``. network: what is trained; a term may read its sizes.
        fields: what batches hold of every shape, at least what :meth:`reads` names.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[TermSettings]] = TermSettings
    # What it can train: roles of networks, and their tasks (utils.tasks).
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {"student": ("classification", "segmentation")}
    # What it learns from. Runs without a term of a teacher, or of the shapes themselves, are
    # baselines; None: it only regularises.
    learns_from: ClassVar[Literal["labels", "teacher", "shapes"] | None] = None
    # Whether the classes of the network mean something by this term alone, though no label is read.
    names_classes: ClassVar[bool] = False
    reads_output: ClassVar[bool] = True  # False: it passes through the network by itself
    # Whether its loss gives every parameter of the network a gradient. Processes that train
    # together are told: to find out, they would look through the graph in every step.
    trains_all: ClassVar[bool] = False
    # Whether a step may be recorded as a CUDA graph and replayed. A term that draws or counts in
    # Python would do so once, while it is recorded, and says False.
    in_graph: ClassVar[bool] = True

    def __init__(self, settings: TermSettings, network: nn.Module, fields: Mapping[str, Field]):
        super().__init__()
        self.settings = settings
        self.fields = {name: fields[name] for name in self.reads(settings, network)}
        self.frozen: dict[str, nn.Module] = {}  # a plain dict: not trained, not saved
        self.inputs: dict[str, str] = {}  # fingerprints of the files that begin() read, by a name
        self._network = (network,)  # not a part of the term

    @classmethod
    def reads(cls, settings: TermSettings, network: nn.Module) -> dict[str, Shape | None]:
        """The fields of a batch that it reads beside the network's input, and the shape that it
        wants of each, per shape and without the batch axis; None for any."""
        return {}

    @classmethod
    def changes(cls, settings: TermSettings) -> list[str]:
        """What is exchanged in it, in words: part of the label of a run."""
        given, usual = settings.model_dump(), cls.Settings().model_dump()
        return [
            f"{option} {value}"
            for option, value in given.items()
            if option != "weight" and value != usual[option]
        ]

    @property
    def network(self) -> nn.Module:
        """What is trained, for terms that need another pass through it."""
        return self._network[0]

    def begin(self, cameras: Mapping[str, Any]) -> None:
        """Called once before training, for what inference does without, such as a frozen network.

        Args:
            cameras: ``intrinsics`` (V, 3, 3), ``extrinsics`` (V, 4, 4) and ``image_size`` of the
                views that teach. A batch may hold some of them: its field ``view_index`` (B, V')
                says which.
        """

    def forward(self, batch: Batch, output: Any) -> Tensor:
        """The loss, a scalar, unweighted.

        Args:
            output: of the network on this batch, computed once for all terms (None where no term
                reads it).
        """
        raise NotImplementedError

    def judge(self, batch: Batch, output: Any) -> tuple[Tensor, Tensor]:
        """Logits (..., K) and targets (...) int64, -1 where there is none, that the accuracy of
        training is made of; terms that know classes define it."""
        raise NotImplementedError

    def freeze(self, name: str, module: nn.Module) -> None:
        """Keep ``module`` as ``self.frozen[name]``: in evaluation mode and without gradients for
        ever, in no optimiser, in no state, but on the device of the term. It must not be assigned
        to the term as well, which would make it a head."""
        self.frozen[name] = module.eval().requires_grad_(False)

    def _apply(self, fn, recurse: bool = True):
        for module in self.frozen.values():
            module._apply(fn)
        return super()._apply(fn, recurse)
