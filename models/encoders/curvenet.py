"""CurveNet (Xiang et al., "Walk in the Cloud: Learning Curves for Point Clouds Shape Analysis",
ICCV 2021), the classification encoder.

Eight curve intervention convolutions at 1024, 256 and 64 points; the first four group their points
into 100 curves of 5 steps. Its own classifier reads max || mean of the 64 last embeddings.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.curvenet_blocks import (
    LPFA,
    SLOPE,
    FirstLPFA,
    Surroundings,
    Walk,
    drop_points,
)
from models.layers.mlp import LinearNorm, SharedMLP
from models.layers.pointops import Sampling
from models.outputs import EncoderOutput
from utils.errors import ConfigError

CURVES, STEPS = 100, 5


class Block(NamedTuple):
    """One CIC: channels in and out, the bottleneck's ratio, curves or not; where points are
    dropped before it, how many stay and the radius of the balls that they pool."""

    before: int
    after: int
    ratio: int
    curves: bool
    keep: int | None = None
    radius: float = 0.0


FIRST_CHANNELS = 32
BLOCKS = (
    Block(32, 64, 2, True, keep=1024, radius=0.05),
    Block(64, 64, 4, True),
    Block(64, 128, 2, True),
    Block(128, 128, 4, True),
    Block(128, 256, 2, False, keep=256, radius=0.1),
    Block(256, 256, 4, False),
    Block(256, 512, 2, False, keep=64, radius=0.2),
    Block(512, 512, 4, False),
)
MIN_POINTS = 256  # fewer than the second resolution has are no longer this network


class CurveGrouping(nn.Module):
    """Curves that begin at the n points with the highest learned score."""

    def __init__(self, channels: int, released_momentum: bool):
        super().__init__()
        self.score = nn.Linear(channels, 1, bias=False)
        self.walk = Walk(channels, STEPS, released_momentum)

    def forward(self, x: Tensor, ahead: Tensor) -> Tensor:
        """``x`` (B, N, C), ``ahead`` (B, N, k) to curves (B, n, l, C)."""
        score = torch.sigmoid(self.score(x))  # (B, N, 1)
        if self.walk.released_momentum:
            # the published weights see the curves in the order in which topk happens to list them
            start = score.squeeze(2).topk(CURVES, dim=1, sorted=False).indices
        else:
            # a stable sort: of equal scores, the lowest index first
            start = score.squeeze(2).sort(dim=1, descending=True, stable=True).indices[:, :CURVES]
        return self.walk(x * score, ahead, start)


class CurveAggregation(nn.Module):
    """Every point attends to the curves as wholes and to the steps across all curves."""

    def __init__(self, channels: int):
        super().__init__()
        middle = channels // 2
        self.weigh = nn.Linear(channels, 1, bias=False)
        self.query = nn.Linear(channels, middle, bias=False)
        self.curve_key = nn.Linear(channels, middle, bias=False)
        self.curve_value = nn.Linear(middle, middle, bias=False)
        self.step_key = nn.Linear(channels, middle, bias=False)
        self.step_value = nn.Linear(middle, middle, bias=False)
        self.merge = LinearNorm(2 * middle, channels)

    def forward(self, x: Tensor, curves: Tensor) -> Tensor:
        """``x`` (B, N, C) and curves (B, n, l, C) to (B, N, C)."""
        weights = self.weigh(curves)  # (B, n, l, 1)
        of_curves = (curves * weights.softmax(dim=2)).sum(dim=2)  # (B, n, C)
        of_steps = (curves * weights.softmax(dim=1)).sum(dim=1)  # (B, l, C)
        query = self.query(x)  # (B, N, C / 2)
        curve_key, step_key = self.curve_key(of_curves), self.step_key(of_steps)
        between = attend(query, curve_key, self.curve_value(curve_key))
        within = attend(query, step_key, self.step_value(step_key))
        return F.leaky_relu(x + self.merge(torch.cat([between, within], dim=2)), SLOPE)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T) value, unscaled: (B, N, C) and twice (B, M, C) to (B, N, C)."""
    return torch.softmax(query @ key.transpose(1, 2), dim=2) @ value


class CIC(nn.Module):
    """Curve intervention convolution: a bottleneck with a shortcut around curves and LPFA.

    ``mix_layers`` is the number of layers of the LPFA.
    """

    def __init__(self, spec: Block, released_momentum: bool = False, mix_layers: int = 1):
        super().__init__()
        inner = spec.before // spec.ratio
        self.squeeze = LinearNorm(spec.before, inner, SLOPE)
        self.grouping = CurveGrouping(inner, released_momentum) if spec.curves else None
        self.aggregation = CurveAggregation(inner) if spec.curves else None
        self.lpfa = LPFA(inner, mix_layers)
        self.expand = LinearNorm(inner, spec.after)
        same = spec.before == spec.after
        self.shortcut = nn.Identity() if same else LinearNorm(spec.before, spec.after)

    def forward(self, place: Surroundings, x: Tensor) -> Tensor:
        """(B, N, before) to (B, N, after)."""
        inner = self.squeeze(x)
        if self.grouping is not None:
            inner = self.aggregation(inner, self.grouping(inner, place.ahead))
        inner = self.lpfa(place, inner)
        return F.leaky_relu(self.expand(inner) + self.shortcut(x), SLOPE)


class CurveNet(nn.Module):
    """Encoder: (B, N, 3) points, N >= 256, to 64 embeddings of 1024 channels (not negative).

    Of more than 1024 points the first block keeps 1024, by farthest-point sampling from point 0.
    ``k`` is the size of a neighbourhood. ``released_momentum`` is for weights that the authors
    published: it computes the dynamic momentum as their code does (see :class:`Walk`).
    """

    feature_channels = 1024
    global_channels = 2048
    sampling: Sampling = "farthest"

    def __init__(self, k: int = 20, released_momentum: bool = False):
        super().__init__()
        self.k = k
        self.first = FirstLPFA(FIRST_CHANNELS)
        self.blocks = nn.ModuleList(CIC(spec, released_momentum) for spec in BLOCKS)
        self.last = SharedMLP([BLOCKS[-1].after, self.feature_channels])

    def forward(self, points: Tensor) -> EncoderOutput:
        """``points`` (B, N, 3).

        Returns 64 embeddings, the input points that they stand for (the farthest-point samples of
        both drops, composed) and max || mean of the embeddings.

        Raises:
            ConfigError: if there are fewer than 256 points.
        """
        count = points.shape[1]
        if count < MIN_POINTS:
            raise ConfigError(
                f"CurveNet needs clouds of at least {MIN_POINTS} points, found {count}: "
                "use more points or another encoder"
            )
        every = torch.arange(count, device=points.device).expand(len(points), -1)
        place = Surroundings(points, every, self.k, self.sampling)
        x = self.first(place)
        for spec, block in zip(BLOCKS, self.blocks, strict=True):
            # paper: a cloud of any other size is resampled to `keep` points.
            # here: a smaller one is left as it is, because resampling could only repeat points.
            if spec.keep is not None and place.points.shape[1] > spec.keep:
                place, x = drop_points(place, x, spec.keep, spec.radius, self.k)
            x = block(place, x)
        features = self.last(x)  # (B, 64, 1024)
        pooled = torch.cat([features.max(dim=1).values, features.mean(dim=1)], dim=1)
        return EncoderOutput(features, place.point_index, pooled)
