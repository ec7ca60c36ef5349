"""CurveNet for part segmentation (Xiang et al., ICCV 2021).

Five stages of curve intervention convolutions lead from all points down to 8, gated feature
propagations back up. No weight is shared with the classification encoder, which has other stages.
The layers are those that the paper and its code describe; that code does not run as published, so
there are no weights to compare with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.curvenet import CIC, FIRST_CHANNELS, Block
from models.encoders.curvenet_blocks import SLOPE, FirstLPFA, Surroundings, drop_points
from models.layers.mlp import LinearNorm, one_hot_category
from models.layers.norms import norm_act_max
from models.layers.pointops import Sampling, interpolate_three_nn
from models.outputs import StudentOutput
from utils.errors import ConfigError


class Stage(NamedTuple):
    """Blocks on the same points: their channels, the size of a neighbourhood, with curves or not;
    how many points are kept (None: all) and the radius of the balls that these pool."""

    channels: int
    blocks: int
    k: int = 32
    curves: bool = False
    keep: int | None = None
    radius: float = 0.0


STAGES = (
    Stage(64, 2, curves=True),
    Stage(128, 2, curves=True, keep=512, radius=0.4),
    Stage(256, 2, keep=128, radius=0.8),
    Stage(512, 2, k=31, keep=32, radius=1.2),
    Stage(1024, 3, k=7, keep=8, radius=2.0),
)
MIN_POINTS = 512  # as in classification: fewer than the second resolution are not this network
MIX_LAYERS = 2  # of every LPFA but the first
CLOUD_CHANNELS = (64, 128)  # what the cloud vector takes from the last two stages


def stage_blocks(before: int, stage: Stage) -> nn.ModuleList:
    """The blocks of one stage: bottleneck 2 in the first, which widens, 4 in the others."""
    widths = [before] + stage.blocks * [stage.channels]
    return nn.ModuleList(
        CIC(Block(widths[i], widths[i + 1], 4 if i else 2, stage.curves), mix_layers=MIX_LAYERS)
        for i in range(stage.blocks)
    )


class GatedPropagation(nn.Module):
    """Features g of few points, interpolated, and features f of more, side by side in two layers.

    An additive attention gate, a = sigmoid(BN(w LeakyReLU(BN(W1 g_i) + BN(W2 f_i)))), weighs f_i.
    """

    def __init__(self, known_channels: int, channels: int):
        super().__init__()
        middle = channels // 2
        self.of_known = LinearNorm(known_channels, middle)
        self.of_skip = LinearNorm(channels, middle)
        self.gate = LinearNorm(middle, 1)
        self.layers = nn.Sequential(
            LinearNorm(channels + known_channels, channels, SLOPE),
            LinearNorm(channels, channels, SLOPE),
        )

    def forward(self, points: Tensor, skip: Tensor, known: Tensor, features: Tensor) -> Tensor:
        """``skip`` (B, N, C) at ``points`` (B, N, 3), ``features`` (B, S, C') at ``known``.

        Returns (B, N, C).
        """
        carried = interpolate_three_nn(points, known, features)  # (B, N, C')
        agreement = F.leaky_relu(self.of_known(carried) + self.of_skip(skip), SLOPE)
        gate = torch.sigmoid(self.gate(agreement))  # (B, N, 1)
        return self.layers(torch.cat([gate * skip, carried], dim=2))


class ChannelGate(nn.Module):
    """Squeeze and excitation: every channel is weighed by what the mean of the cloud says."""

    def __init__(self, channels: int, ratio: int = 8):
        super().__init__()
        self.squeeze = LinearNorm(channels, channels // ratio, SLOPE)
        self.excite = nn.Linear(channels // ratio, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return x * torch.sigmoid(self.excite(self.squeeze(x.mean(dim=1)))).unsqueeze(1)


class CurveNetSegmenter(nn.Module):
    """(B, N, 3) points, N >= 512, and (B,) categories to logits (B, N, num_parts).

    The embedding of a point is what the last block gives, before the layers of the classifier.

    paper: the first stage works on 2048 points.
    here: on all, however many, because every point asks for its label.
    """

    feature_channels = 256
    global_channels = sum(CLOUD_CHANNELS)
    encoder_layers = ("first", "stages", "of_cloud", "propagations", "refinements", "last")
    category_layers = ("last",)
    sampling: Sampling = "farthest"

    def __init__(self, num_parts: int, num_categories: int):
        super().__init__()
        self.num_categories = num_categories
        widths = [stage.channels for stage in STAGES]
        self.first = FirstLPFA(FIRST_CHANNELS)
        self.stages = nn.ModuleList(
            stage_blocks(before, stage)
            for before, stage in zip([FIRST_CHANNELS, *widths], STAGES, strict=False)
        )
        self.of_cloud = nn.ModuleList(
            LinearNorm(*step, SLOPE) for step in zip(widths[-2:], CLOUD_CHANNELS, strict=True)
        )
        # from the stage with the fewest points to that of all points
        self.propagations = nn.ModuleList(
            GatedPropagation(known, channels)
            for known, channels in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.refinements = nn.ModuleList(self._block(width, width) for width in widths[-2:0:-1])
        told = 3 + widths[0] + self.global_channels + num_categories
        self.last = nn.ModuleList(
            self._block(before, self.feature_channels) for before in (told, self.feature_channels)
        )
        self.head = LinearNorm(self.feature_channels, self.feature_channels, SLOPE)
        self.channel_gate = ChannelGate(self.feature_channels)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(self.feature_channels, num_parts)

    @staticmethod
    def _block(before: int, after: int) -> CIC:
        return CIC(Block(before, after, 4, curves=False), mix_layers=MIX_LAYERS)

    def forward(self, points: Tensor, category: Tensor | None) -> StudentOutput:
        """``points`` (B, N, 3), ``category`` (B,) int64; N embeddings of 256 channels, any sign.

        Raises:
            ConfigError: a category that is missing or out of range, or fewer than 512 points.
        """
        kind = one_hot_category(category, self.num_categories, points)  # (B, categories)
        levels = self.descend(points)
        cloud = torch.cat(
            [
                norm_act_max(layer.norm, layer.linear(x), SLOPE)
                for layer, (_, x) in zip(self.of_cloud, levels[-2:], strict=True)
            ],
            dim=1,
        )  # (B, 192)
        place, x = self.ascend(levels)
        told = torch.cat([cloud, kind], dim=1).unsqueeze(1).expand(-1, points.shape[1], -1)
        x = torch.cat([points, x, told], dim=2)
        for block in self.last:
            x = block(place, x)
        logits = self.classifier(self.dropout(self.channel_gate(self.head(x))))
        return StudentOutput(
            logits=logits, global_feature=cloud, point_features=x, point_index=place.point_index
        )

    def descend(self, points: Tensor) -> list[tuple[Surroundings, Tensor]]:
        """Points and features (B, N', C') of every stage, the one of all points first."""
        count = points.shape[1]
        if count < MIN_POINTS:
            raise ConfigError(
                f"CurveNet segments clouds of at least {MIN_POINTS} points, found {count}: "
                "use more points or another encoder"
            )
        every = torch.arange(count, device=points.device).expand(len(points), -1)
        place = Surroundings(points, every, STAGES[0].k, self.sampling)
        x = self.first(place)
        levels = []
        for stage, blocks in zip(STAGES, self.stages, strict=True):
            if stage.keep is not None and place.points.shape[1] > stage.keep:
                place, x = drop_points(place, x, stage.keep, stage.radius, stage.k)
            for block in blocks:
                x = block(place, x)
            levels.append((place, x))
        return levels

    def ascend(self, levels: list[tuple[Surroundings, Tensor]]) -> tuple[Surroundings, Tensor]:
        """Back to all points: (B, N, 64). A block follows every propagation but the last, after
        which it is the block that also reads the cloud vector."""
        known, x = levels[-1]
        refinements = [*self.refinements, None]
        for (place, skip), carry, block in zip(
            levels[-2::-1], self.propagations, refinements, strict=True
        ):
            x = carry(place.points, skip, known.points, x)
            if block is not None:
                x = block(place, x)
            known = place
        return known, x
