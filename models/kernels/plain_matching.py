"""The one-to-one matching of two clouds as tensor code: an auction, some bids a round.

A point of ``a`` bids for the point of ``b`` whose distance and price add up to the least: it raises
the price by what the second best would cost more, and by epsilon. Of several bids the highest wins
and displaces the owner. When every point owns one, the mean distance exceeds the optimum by at most
epsilon (Bertsekas, 1988). Epsilon begins coarse and falls, each time from the prices found before,
until that is within the tolerance; the bound of the optimum is that theorem's.

The forms of this kernel differ in the order of the bids, so they may match differently, all of them
within the tolerance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# The tolerance: a share of the optimum, or of the smaller diagonal of the two bounding boxes. Both
# are 5 % below what is promised, for what float32 rounds.
SHARE, OF_DIAGONAL = np.float32(0.0095), 0.95e-4
START = 0.03  # the first epsilon, as a share of the diagonal of the box around both clouds
FALL = np.float32(5)  # of epsilon, from each phase to the next
LEAST = np.float32(2**-20)  # of the extent: a smaller one could be lost in a sum of float32
BIDDERS = 32  # in a round
# Where nothing may be read back, all rounds are taken. Pairs of 1,024 points need 1,000 to 10,000.
ROUNDS = 20_000


def match(a: Tensor, b: Tensor) -> Tensor:
    """(B, N, 3) twice to (B, N) int64; see :func:`models.losses.earth_movers_distance`.

    On a CPU the rounds end with the last pair. Elsewhere nothing is read back and ``ROUNDS`` are
    taken; what is still without a point then takes what is left, by index.
    """
    auction = Auction(a, b)
    for _ in range(ROUNDS if a.device.type != "cpu" else 100 * ROUNDS):
        auction.bid()
        auction.next_phase()
        if a.device.type == "cpu" and auction.done.all():
            break
    return auction.matched()


def settle(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What all forms begin with: both clouds in units near the extent of the pair, limits (B, 2).

    The limits are those of epsilon: the tolerance that the diagonal allows, and the first one. The
    units are powers of two, which changes no digit. What is not finite counts as zero.
    """
    both = torch.stack([a, b]).double()  # (2, B, N, 3)
    both = both.where(both.isfinite(), 0.0)
    low, high = both.amin(dim=2), both.amax(dim=2)
    extent = torch.linalg.vector_norm(high.amax(dim=0) - low.amin(dim=0), dim=1)  # (B,)
    diagonal = torch.linalg.vector_norm(high - low, dim=2).amin(dim=0)
    unit = torch.ldexp(torch.ones_like(extent), torch.frexp(extent).exponent)
    limits = torch.stack([OF_DIAGONAL * diagonal, START * extent], dim=1) / unit.unsqueeze(1)
    first, second = (both / unit.view(-1, 1, 1)).float()
    return first, second, limits.float().clamp_min(float(LEAST))


class Auction:
    """The state of B auctions; N in the place of an index is nobody, the last column of a state."""

    def __init__(self, a: Tensor, b: Tensor):
        self.a, self.b, limits = settle(a, b)
        self.floor, self.epsilon = limits.unbind(dim=1)  # (B,)
        batch, self.count, _ = a.shape
        self.price = self.floor.new_zeros(batch, self.count + 1)
        self.nobody = torch.full_like(self.price, self.count, dtype=torch.int64)
        self.owner, self.mine = self.nobody, self.nobody
        self.low = torch.zeros_like(self.floor)  # what the optimum is not below
        self.done = torch.zeros_like(self.floor, dtype=torch.bool)
        self.falling = torch.arange(self.count, 0, -1, device=a.device, dtype=torch.float32)
        self.slot = torch.arange(min(BIDDERS, self.count), device=a.device)

    def bid(self) -> None:
        """A round: the first ``BIDDERS`` points of ``a`` that own none, M of them."""
        waits = self.mine[:, :-1] == self.count
        order, bidder = (self.falling * waits).topk(len(self.slot), dim=1)  # (B, M)
        where = self.a.gather(1, bidder.unsqueeze(2).expand(-1, -1, 3))
        total = _distance(where.unsqueeze(2), self.b.unsqueeze(1)) + self.price[:, None, :-1]
        best, wanted = total.topk(min(2, self.count), dim=2, largest=False)
        wanted = wanted[..., 0]  # (B, M)
        rise = best[..., -1] - best[..., 0] + self.epsilon.unsqueeze(1)
        offer = self.price.gather(1, wanted) + rise
        # one integer orders by the bits of the offer, which is not negative, then by the bidder
        key = (offer.view(torch.int32).long() << 32 | self.slot).masked_fill(order == 0, -1)
        highest = torch.full_like(self.owner, -1).scatter_reduce(1, wanted, key, "amax")
        won = (highest.gather(1, wanted) == key) & (order > 0)
        wanted = wanted.where(won, self.count)
        loser = self.owner.gather(1, wanted).where(won, self.count)
        bidder = bidder.where(won, self.count)
        self.price = self.price.scatter(1, wanted, offer)
        self.owner = self.owner.scatter(1, wanted, bidder)
        self.mine = self.mine.scatter(1, loser, self.count).scatter(1, bidder, wanted)

    def next_phase(self) -> None:
        """Where all own a point: is that near enough to the optimum? If not, epsilon falls."""
        mine = self.mine[:, :-1]
        complete = (mine < self.count).all(dim=1) & ~self.done
        index = mine.clamp_max(self.count - 1).unsqueeze(2).expand(-1, -1, 3)
        mean = _distance(self.a, self.b.gather(1, index)).mean(dim=1)
        low = torch.maximum(self.low, mean - self.epsilon).where(complete, self.low)
        wanted = torch.maximum(float(SHARE) * low, self.floor)
        near = self.epsilon <= wanted
        falls = complete & ~near
        lower = torch.maximum(self.epsilon / float(FALL), wanted)
        self.low, self.done = low, self.done | (complete & near)
        self.epsilon = lower.where(falls, self.epsilon)
        self.owner = self.nobody.where(falls.unsqueeze(1), self.owner)
        self.mine = self.nobody.where(falls.unsqueeze(1), self.mine)

    def matched(self) -> Tensor:
        """(B, N) int64, one-to-one: the r-th point without another gets the r-th that is free."""
        mine, owner = self.mine[:, :-1], self.owner[:, :-1]
        waiting = (mine < self.count).int().argsort(dim=1, stable=True)
        free = (owner < self.count).int().argsort(dim=1, stable=True)
        given = mine.gather(1, waiting)
        return mine.scatter(1, waiting, given.where(given < self.count, free))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """(..., 3) and (..., 3), which are broadcast, to (...)."""
    return torch.linalg.vector_norm(a - b, dim=-1)
