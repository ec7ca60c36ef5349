"""Random numbers that belong to a sample, not to a position in a stream.

A draw is a hash of (seed, epoch, sample index, draw number), so a sample is augmented alike however
many processes share the epoch, in whatever order, on a CPU or a GPU, and after a resumption.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Constants of the SplitMix64 finaliser (Steele, Lea, Flood, OOPSLA 2014), as signed 64-bit numbers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _mix(x: Tensor) -> Tensor:
    """One round of SplitMix64 on int64 tensors; products wrap, shifts are made logical."""
    x = x + _GAMMA
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


def sample_keys(seed: int, epoch: int | Tensor, index: Tensor, copy: int = 0) -> Tensor:
    """One int64 key a sample, (B,), from the sample's index in its split; every ``copy`` of a
    sample in a batch has keys of its own.

    ``epoch``: a number, or an int64 scalar on the device of ``index``, which a CUDA graph reads
    anew in every replay.
    """
    keys = torch.full_like(index, seed)
    keys = _mix(_mix(_mix(keys) ^ epoch) ^ index)
    return keys if copy == 0 else _mix(_mix(keys) ^ copy)


def uniform(keys: Tensor, draws: int, stream: int) -> Tensor:
    """Uniform numbers in [0, 1): (B, draws) float32.

    ``stream`` tells apart the purposes for which one sample draws numbers.
    """
    counter = torch.arange(draws, device=keys.device, dtype=torch.int64)
    bits = _mix(_mix(keys + stream).unsqueeze(1) ^ counter)
    return ((bits >> 40) & (2**24 - 1)).to(torch.float32) * 2.0**-24


def normal(keys: Tensor, draws: int, stream: int) -> Tensor:
    """Standard normal numbers, (B, draws) float32, no farther out than 5.8 (Box and Muller)."""
    pairs = -(-draws // 2)
    unit = uniform(keys, 2 * pairs, stream)
    radius = (-2 * torch.log1p(-unit[:, :pairs])).sqrt()
    angle = 2 * torch.pi * unit[:, pairs:]
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return both[:, :draws]
