"""What a training method is: the owner of a network, of the heads that exist only for training, and
of the losses between them.

To add a method, write one file with a subclass of :class:`Method` and one line in
``models/methods/__init__.py``. A method declares the batch fields it needs, so the data side loads
nothing else; inference keeps only ``method.network``. A method may own further networks that train
along (an image encoder in the loop, a decoder): they are its submodules and never leave it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from utils.config import did_you_mean
from utils.errors import ConfigError


@dataclass
class MethodOutput:
    """The unweighted loss terms by name, each a scalar, and what the training accuracy is made of:
    ``logits`` (..., K), without gradient, and ``target`` (...) int64, -1 where there is none. A
    method that learns without labels gives neither.

    Every gradient goes through a loss: DistributedDataParallel would wait for one of the classifier
    if the logits carried their graph out and no active term read them.
    """

    losses: dict[str, Tensor]
    logits: Tensor | None = None
    target: Tensor | None = None

    def __post_init__(self):
        if self.logits is not None:
            self.logits = self.logits.detach()


class Method(nn.Module):
    """Base of all training methods.

    Subclasses set ``inputs`` (the fields that are always read), ``terms`` (the loss names they can
    compute), ``term_fields`` (which further fields each term reads) and ``options`` (which keyword
    arguments they take). A term of weight 0 is neither computed nor are its fields asked for, so a
    baseline runs through the same code.

    Args:
        network: what stays after training.
        weights: loss term -> weight; terms left out count as 0.

    Raises:
        ConfigError: a weight for a term that the method does not have, or none above 0.
    """

    inputs: tuple[str, ...] = ("points",)
    terms: tuple[str, ...] = ()
    term_fields: dict[str, tuple[str, ...]] = {}
    options: tuple[str, ...] = ()

    def __init__(self, network: nn.Module, weights: dict[str, float]):
        super().__init__()
        for name in weights:
            if name not in self.terms:
                raise ConfigError(
                    f"loss.{name}: {type(self).__name__} has the loss terms {list(self.terms)}"
                    f"{did_you_mean(name, self.terms)}"
                )
        self.network = network
        self.weights = {name: weights[name] for name in self.terms if weights.get(name, 0) != 0}
        if not self.weights:
            raise ConfigError(f"all loss weights are 0: give one of {list(self.terms)} a weight")

    @property
    def fields(self) -> tuple[str, ...]:
        """The batch fields to provide: the inputs and what the active loss terms read."""
        needed = {f for term in self.weights for f in self.term_fields.get(term, ())}
        return (*self.inputs, *sorted(needed))

    @property
    def trains_all(self) -> bool:
        """Whether the active terms give every parameter a gradient; a method overrides it where a
        weight of 0 leaves some without. Processes that train together are told: to find out, they
        would look through the graph and tell each other in every step.
        """
        return True

    def forward(self, batch: dict[str, Tensor]) -> MethodOutput:
        raise NotImplementedError

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms: the scalar to minimise.

        Raises:
            ConfigError: no active term was computed (the encoder does not have it).
        """
        if not losses:
            raise ConfigError(f"this network has none of the loss terms {list(self.weights)}")
        return sum(self.weights[name] * value for name, value in losses.items())
