"""The one-to-one matching of two clouds in Triton: a program runs the auction of a pair to its end.

It is that of :mod:`models.kernels.plain_matching`. Who is without a point waits in a ring; a round
takes the first ``BIDDERS`` of it, and those who lose go to its end. The state lies in memory, which
stays in the cache of the multiprocessor; a barrier parts what a round reads from what it writes,
since all threads read what only one of them writes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import next_power_of_2

from models.kernels.plain_matching import FALL, SHARE, settle

BIDDERS, LANES, WARPS = 16, 256, 8
BLOCK = 1024  # points at a time, where all are treated
# A launch has to end. Pairs of 1,024 points need 1,000 to 10,000, each of some microseconds.
ROUNDS = 200_000


def match(a: Tensor, b: Tensor) -> Tensor:
    """(B, N, 3) twice to (B, N) int64; see :func:`models.losses.earth_movers_distance`.

    Who is without a point after ``ROUNDS`` rounds takes one of those that are left.
    """
    batch, count, _ = a.shape
    if count == 1:  # there is no second best
        return torch.zeros(batch, 1, dtype=torch.int64, device=a.device)
    a, b, limits = settle(a, b)
    price = a.new_zeros(batch, count)
    owner, ring = torch.empty(2, batch, count, dtype=torch.int32, device=a.device)
    mine = torch.empty(batch, count, dtype=torch.int64, device=a.device)
    with torch.cuda.device_of(a):
        auction_kernel[(batch,)](
            *(a, b, limits, price, owner, ring, mine, count, ROUNDS), **launch(count)
        )
    return mine


def launch(count: int) -> dict[str, int | float]:
    width = next_power_of_2(count)
    return {
        "LANES": min(LANES, width),
        "BLOCK": min(BLOCK, width),
        "BIDDERS": BIDDERS,
        "SHARE": float(SHARE),
        "FALL": float(FALL),
        "num_warps": WARPS,
    }


@triton.jit
def least_two(x, y, z, b, price, count, BIDDERS: tl.constexpr, LANES: tl.constexpr):
    """The least two sums of distance and price of every bidder, and whose the first is."""
    best = tl.full([BIDDERS, LANES], float("inf"), tl.float32)  # of every LANES-th point
    second = best
    which = tl.zeros([BIDDERS, LANES], tl.int32)
    for begin in range(0, count, LANES):
        n = begin + tl.arange(0, LANES)
        there = n < count
        dx = x[:, None] - tl.load(b + n * 3, mask=there, other=0.0)[None, :]
        dy = y[:, None] - tl.load(b + n * 3 + 1, mask=there, other=0.0)[None, :]
        dz = z[:, None] - tl.load(b + n * 3 + 2, mask=there, other=0.0)[None, :]
        asked = tl.load(price + n, mask=there, other=float("inf"))[None, :]
        total = tl.sqrt(dx * dx + dy * dy + dz * dz) + asked
        lower = total < best
        second = tl.where(lower, best, tl.minimum(second, total))
        which = tl.where(lower, n[None, :], which)
        best = tl.minimum(best, total)
    least = tl.min(best, axis=1)
    wanted = tl.min(tl.where(best == least[:, None], which, count), axis=1)
    others = tl.where(which == wanted[:, None], second, best)
    return least, tl.min(others, axis=1), wanted


@triton.jit
def mean_distance(a, b, mine, count, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, count, BLOCK):
        n = begin + tl.arange(0, BLOCK)
        there = n < count
        other = tl.load(mine + n, mask=there, other=0)
        square = tl.zeros([BLOCK], tl.float32)
        for axis in tl.static_range(3):
            offset = tl.load(a + n * 3 + axis, mask=there, other=0.0)
            offset -= tl.load(b + other * 3 + axis, mask=there, other=0.0)
            square += offset * offset
        total += tl.sqrt(square)
    return tl.sum(total, axis=0) / count


@triton.jit
def settle_rest(owner, ring, mine, head, count, BLOCK: tl.constexpr):
    """The r-th who waits gets the r-th point without an owner."""
    before = 0
    for begin in range(0, count, BLOCK):
        n = begin + tl.arange(0, BLOCK)
        left = (n < count) & (tl.load(owner + n, mask=n < count, other=0) < 0)
        place = head + before + tl.cumsum(left.to(tl.int32), axis=0) - 1
        place = tl.where(place < count, place, place - count)
        person = tl.load(ring + place, mask=left, other=0)
        tl.store(mine + person, n.to(tl.int64), mask=left)
        before += tl.sum(left.to(tl.int32), axis=0)


@triton.jit(do_not_specialize=["rounds"])
def auction_kernel(
    a,
    b,
    limits,
    price,
    owner,
    ring,
    mine,
    count,
    rounds,
    BIDDERS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
    SHARE: tl.constexpr,
    FALL: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    a += pair * count * 3
    b += pair * count * 3
    price += pair * count
    owner += pair * count
    ring += pair * count
    mine += pair * count
    floor = tl.load(limits + pair * 2)
    epsilon = tl.load(limits + pair * 2 + 1)
    low = floor * 0  # what the optimum is not below
    slot = tl.arange(0, BIDDERS)
    goes_on = epsilon > 0
    while goes_on:
        for begin in range(0, count, BLOCK):
            n = begin + tl.arange(0, BLOCK)
            tl.store(ring + n, n, mask=n < count)
            tl.store(owner + n, -1, mask=n < count)
        tl.debug_barrier()
        head = 0
        waiting = count
        while (waiting > 0) & (rounds > 0):
            bids = slot < waiting
            place = head + slot
            person = tl.load(
                ring + tl.where(place < count, place, place - count), mask=bids, other=0
            )
            x = tl.load(a + person * 3)
            y = tl.load(a + person * 3 + 1)
            z = tl.load(a + person * 3 + 2)
            least, second, wanted = least_two(x, y, z, b, price, count, BIDDERS, LANES)
            offer = tl.load(price + wanted) + (second - least) + epsilon
            loser = tl.load(owner + wanted)
            # one integer orders by the bits of the offer, which is not negative, then by the bidder
            key = (offer.to(tl.int32, bitcast=True).to(tl.int64) << 32) | slot
            higher = (key[None, :] > key[:, None]) & (wanted[None, :] == wanted[:, None])
            beaten = tl.max((higher & bids[None, :]).to(tl.int32), axis=1)
            won = bids & (beaten == 0)
            next_one = tl.where(won, loser, person)
            waits = bids & (next_one >= 0)
            taken = tl.minimum(waiting, BIDDERS)
            waiting -= taken
            head = tl.where(head + taken < count, head + taken, head + taken - count)
            place = head + waiting + tl.cumsum(waits.to(tl.int32), axis=0) - 1
            waiting += tl.sum(waits.to(tl.int32), axis=0)
            rounds -= 1
            tl.debug_barrier()
            tl.store(price + wanted, offer, mask=won)
            tl.store(owner + wanted, person, mask=won)
            tl.store(mine + person, wanted.to(tl.int64), mask=won)
            tl.store(ring + tl.where(place < count, place, place - count), next_one, mask=waits)
            tl.debug_barrier()
        if waiting > 0:
            settle_rest(owner, ring, mine, head, count, BLOCK)
            goes_on = floor < 0
        else:
            low = tl.maximum(low, mean_distance(a, b, mine, count, BLOCK) - epsilon)
            wanted_epsilon = tl.maximum(SHARE * low, floor)
            goes_on = epsilon > wanted_epsilon
            epsilon = tl.maximum(epsilon / FALL, wanted_epsilon)
