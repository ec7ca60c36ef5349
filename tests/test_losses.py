"""The earth mover's distance against the best assignment, which SciPy finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import slow_if
from helpers import check_matching, cloud_of, points
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels import cpu, ops, plain, plain_matching
from models.losses import earth_movers_distance
from scripts.benchmarks import assignment
from scripts.benchmarks.contest import TINY
from utils.errors import RunError


def shuffled(cloud: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return cloud[:, torch.randperm(cloud.shape[1], generator=torch.manual_seed(seed))]


def shapes(count: int) -> torch.Tensor:
    names = ("chair", "mug", "plane")
    return torch.from_numpy(np.stack([cloud_of(name, count)[0] for name in names])).float()


def far_clusters(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two dense places, one of which has a point more in ``a``: a single one has to go far."""
    a, b = 1e-3 * points("random", count), 1e-3 * points("random", count, seed=1)
    a[:, : count // 2, 0] += 1
    b[:, : count // 2 - 1, 0] += 1
    return a, shuffled(b)


def pairs(kind: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if kind == "unrelated":
        return (a := shapes(count)), shuffled(a.roll(1, dims=0))
    if kind == "resampled":
        return shuffled(shapes(2 * count))[:, :count], shuffled(shapes(2 * count), 1)[:, :count]
    if kind == "jittered":
        a = shapes(count)
        return a, shuffled(a + 0.01 * torch.randn(a.shape, generator=generator))
    if kind == "scales":  # and places, among them one point and one far from the origin
        a, b = points("random", count, 6), points("random", count, 6, seed=1)
        scale = torch.tensor([1.0, 1e-3, 1e3, 1e-12, 1.0, 1e15]).view(-1, 1, 1)
        a, b = scale * a, scale * b
        a[4] = a[4, :1]
        return a + torch.tensor([0, 1, 0, 0, 0, 0.0]).view(-1, 1, 1), b
    if kind == "lattice":
        return points("lattice", count), points("lattice", count, seed=1)
    return far_clusters(count)


KINDS = ["unrelated", "resampled", "jittered", "scales", "lattice", "clusters"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [130, slow_if(True, 1024)])
def test_the_matching_is_one_to_one_and_near_the_optimum(kind, count):
    a, b = pairs(kind, count)
    distance, assignment = earth_movers_distance(a, b)
    check_matching(a, b, assignment)
    other = b.gather(1, assignment.unsqueeze(2).expand_as(b))
    torch.testing.assert_close(distance, (a - other).norm(dim=2).mean(dim=1))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 17, 63, 64, 65])
def test_any_number_of_points(count):
    a, b = points("random", count), points("random", count, seed=1)
    for form in (cpu, plain):
        check_matching(a, b, form.match(a, b))


@pytest.mark.parametrize("kind", KINDS)
def test_tensor_code_is_as_near(kind):
    a, b = pairs(kind, 40)
    check_matching(a, b, plain.match(a, b))


def test_equal_clouds_are_as_good_as_matched():
    a = shapes(200)
    b = shuffled(a)
    distance, assignment = earth_movers_distance(a, b)
    check_matching(a, b, assignment)
    assert (distance <= 1e-4 * (a.amax(dim=1) - a.amin(dim=1)).norm(dim=1)).all()
    same = torch.full((2, 50, 3), 0.3)
    for form in (cpu, plain):
        check_matching(same, same, form.match(same, same))
        check_matching(same, same + 1, form.match(same, same + 1))
        check_matching(same, points("random", 50), form.match(same, points("random", 50)))


def test_rounds_that_run_out_leave_a_matching(monkeypatch):
    a, b = pairs("resampled", 100)
    auction = plain_matching.Auction(a, b)
    for _ in range(30):
        auction.bid()
    assert (auction.mine[:, :-1] == 100).any(dim=1).all()
    assert (auction.matched().sort(dim=1).values == torch.arange(100)).all()


def test_the_order_of_a_batch_changes_nothing():
    a, b = pairs("resampled", 100)
    _, together = earth_movers_distance(a, b)
    for pair in range(3):
        assert torch.equal(
            earth_movers_distance(a[pair, None], b[pair, None])[1][0], together[pair]
        )


def test_the_gradient_is_that_of_the_distances():
    a, b = (points("random", 6, seed=seed).double().requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda *clouds: earth_movers_distance(*clouds)[0], (a, b))


def test_points_that_coincide_have_no_gradient():
    a = points("random", 30).requires_grad_()
    b = a.detach().clone()
    b[:, 10:] += 1e-3
    b.requires_grad_()
    distance, assignment = earth_movers_distance(a, b)
    distance.sum().backward()
    assert (assignment == torch.arange(30)).all()
    for cloud, sign in ((a, -1), (b, 1)):
        assert not cloud.grad[:, :10].any()
        expected = torch.full((2, 20, 3), sign / 30 / 3**0.5)
        torch.testing.assert_close(cloud.grad[:, 10:], expected, rtol=1e-3, atol=1e-6)


def test_halves_are_matched_in_float32():
    a, b = points("random", 20).bfloat16().requires_grad_(), points("random", 20, seed=1)
    distance, _ = earth_movers_distance(a, b)
    distance.sum().backward()
    assert distance.dtype == torch.float32 and a.grad.dtype == torch.bfloat16


def test_tensor_code_asks_a_device_for_nothing(monkeypatch):
    """Of tensors without content no value can be had."""
    monkeypatch.setattr(plain_matching, "ROUNDS", 3)
    with FakeTensorMode():
        a, b = torch.empty(2, 50, 3, device="cuda"), torch.empty(2, 50, 3, device="cuda")
        assert plain.match(a, b).shape == (2, 50)


@pytest.mark.parametrize("name", assignment.contests(TINY, torch.device("cpu")))
def test_a_matching_that_is_wrong_is_not_timed(name, monkeypatch):
    contest = assignment.contests(TINY, torch.device("cpu"))[name]()
    contest.check()
    for wrong in (lambda a, b: torch.zeros(a.shape[:2], dtype=torch.int64), lambda a, b: turned(a)):
        monkeypatch.setattr(ops, "match", wrong)
        with pytest.raises(RunError, match="no time is reported"):
            contest.check()


def turned(a: torch.Tensor) -> torch.Tensor:
    return torch.arange(a.shape[1]).roll(5).expand(len(a), -1)


def test_bad_clouds_are_refused():
    a = points("random", 20)
    for b in (a[:, :19], a[:1], a[..., :2], a[0]):
        with pytest.raises(ValueError, match=r"two clouds \(B, N, 3\) of the same shape, found"):
            earth_movers_distance(a, b)
    with pytest.raises(ValueError, match=r"found \(2, 0, 3\)"):
        earth_movers_distance(a[:, :0], a[:, :0])
    with pytest.raises(ValueError, match="torch.int64 on cpu"):
        earth_movers_distance(a, a.long())
    for value in (torch.nan, torch.inf):
        broken = a.clone()
        broken[1, 3, 2] = value
        with pytest.raises(RunError, match="not finite"):
            earth_movers_distance(a, broken)
        # on other devices there is no complaint, and a matching all the same
        assert (plain.match(broken, a).sort(dim=1).values == torch.arange(20)).all()
