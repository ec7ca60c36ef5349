"""What terms that compare a student's code with its teacher's have in common."""

from __future__ import annotations

from torch import nn

from utils.errors import ConfigError
from utils.fields import Field


def check_code(name: str, network: nn.Module, codes: Field) -> None:
    """Refuse a student whose classifier cannot read the teacher's codes.

    Args:
        name: of the term. codes: of the bank, one code per shape.

    Raises:
        ConfigError: the last layer of its head reads another number of channels.
    """
    found, width = getattr(network, "code_channels", None), codes.shape[-1]
    if found != width:
        reads = "no code" if found is None else f"{found} channels"
        raise ConfigError(
            f"terms.{name} found codes of {width} channels in the bank, and the last layer of the "
            f"student's head reads {reads}: give student.head=pointcmt student.code_size={width}"
        )
