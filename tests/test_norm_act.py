"""Normalisation, activation and maximum in few passes, against the plain order of operations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.kernels.choice import kernels_name
from models.layers import norms

# groups, rows of each, channels: blocks and runs that are not full, a single row a group, one group
SIZES = [(37, 20, 48), (3, 700, 130), (5, 1, 7), (1, 3000, 3), (300, 16, 1)]


def pair(channels: int) -> tuple[nn.BatchNorm1d, nn.BatchNorm1d]:
    """A normalisation with some negative weights, and its twin in float64."""
    torch.manual_seed(channels)
    norm = nn.BatchNorm1d(channels)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    return norm, copy.deepcopy(norm).double()


def plain(norm: nn.BatchNorm1d, groups: torch.Tensor, slope: float, pooled: bool) -> torch.Tensor:
    rows = F.leaky_relu(norm(groups.flatten(0, 1)), slope).view(groups.shape)
    return rows.max(dim=1).values if pooled else rows.flatten(0, 1)


def fast(norm: nn.BatchNorm1d, groups: torch.Tensor, slope: float, pooled: bool) -> torch.Tensor:
    assert norms._is_fast(norm, groups)
    if pooled:
        return norms.norm_act_max(norm, groups, slope)
    return norms.norm_act(norm, groups.flatten(0, 1), slope)


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    error = (found.double() - expected).abs().max()
    assert error <= tolerance * expected.abs().max().clamp(min=1e-3), float(error)


needs_numba = pytest.mark.skipif(
    kernels_name(torch.device("cpu")) != "numba", reason="numba serves no CPU tensors here"
)


@needs_numba
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_values_gradients_and_running_statistics_are_those_of_the_plain_form(size, pooled, slope):
    norm, twin = pair(size[2])
    x = torch.randn(size) * 2 + 3
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = fast(norm, ours, slope, pooled), plain(twin, theirs, slope, pooled)
    upstream = torch.randn(out.shape)
    out.backward(upstream)
    expected.backward(upstream.double())
    near(out, expected, 2e-6)
    near(ours.grad, theirs.grad, 2e-6)
    near(norm.weight.grad, twin.weight.grad, 2e-6)
    near(norm.bias.grad, twin.bias.grad, 2e-6)
    near(norm.running_mean, twin.running_mean, 1e-6)
    near(norm.running_var, twin.running_var, 2e-6)
    assert norm.num_batches_tracked == 1


@needs_numba
@pytest.mark.parametrize("pooled", [False, True])
def test_a_bias_that_is_left_out_is_only_in_the_running_mean(pooled):
    norm, twin = pair(7)
    linear = nn.Linear(5, 7)
    exact = copy.deepcopy(linear).double()
    x = torch.randn(6, 9, 5)
    rows, bias = norms.linear_before_norm(linear, norm, x)
    assert bias is linear.bias
    if pooled:
        out = norms.norm_act_max(norm, rows, bias=bias)
    else:
        out = norms.norm_act(norm, rows.flatten(0, 1), bias=bias)
    expected = plain(twin, exact(x.double()), 0.0, pooled)
    out.square().sum().backward()
    expected.square().sum().backward()
    near(out, expected, 2e-6)
    near(linear.weight.grad, exact.weight.grad, 2e-5)
    assert not linear.bias.grad.any() and exact.bias.grad.abs().max() < 1e-10
    near(norm.running_mean, twin.running_mean, 1e-6)
    norm.eval()
    rows, bias = norms.linear_before_norm(linear, norm, x)
    assert bias is None and torch.equal(rows, linear(x))


@needs_numba
@pytest.mark.parametrize("pooled", [False, True])
def test_bfloat16_is_rounded_once_at_each_end(pooled):
    norm, twin = pair(48)
    # values without ties: of equal rows in half precision either may be the maximum
    x = torch.randperm(40 * 48).view(2, 20, 48).remainder(256).to(torch.bfloat16) / 64
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = fast(norm, ours, 0.2, pooled), plain(twin, theirs, 0.2, pooled)
    assert out.dtype is torch.bfloat16
    upstream = torch.randn(out.shape).to(torch.bfloat16)
    out.backward(upstream)
    near(out, expected, 2**-8)
    if not pooled:
        expected.backward(upstream.double())
        near(ours.grad, theirs.grad, 2**-8)
        near(norm.weight.grad, twin.weight.grad, 1e-5)


@needs_numba
def test_large_means_do_not_cost_the_variance():
    norm, twin = pair(5)
    x = torch.randn(4000, 5) + 1000
    near(norms.norm_act(norm, x, 1.0), F.leaky_relu(twin(x.double()), 1.0), 1e-3)
    near(norm.running_var, twin.running_var, 1e-4)


@needs_numba
@pytest.mark.parametrize("pooled", [False, True])
def test_what_is_no_number_is_not_lost(pooled):
    norm, _ = pair(6)
    x = torch.randn(4, 8, 6)
    x[2, 3, 1] = torch.nan
    out = fast(norm, x, 0.0, pooled)
    assert out[:, 1].isnan().all()  # through the statistics, as in PyTorch
    assert out[:, 0].isfinite().all()


@needs_numba
@pytest.mark.parametrize("pooled", [False, True])
def test_the_number_of_threads_changes_no_bit(pooled):
    x, results = torch.randn(64, 100, 40), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        norm, _ = pair(40)
        rows = x.clone().requires_grad_()
        out = fast(norm, rows, 0.2, pooled)
        out.square().sum().backward()
        results.append((out.detach(), rows.grad, norm.weight.grad, norm.running_var))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_evaluation_and_other_types_take_the_plain_form():
    norm, twin = pair(9)
    x = torch.randn(6, 5, 9)
    assert not norms._is_fast(twin, x.double())
    near(norms.norm_act_max(twin, x.double()), plain(pair(9)[1], x.double(), 0.0, True), 1e-12)
    norm.eval()
    assert not norms._is_fast(norm, x)
    near(norms.norm_act_max(norm, x), plain(norm.double(), x.double(), 0.0, True), 1e-6)


def test_a_single_row_has_no_statistics():
    norm, _ = pair(4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norms.norm_act(norm, torch.randn(1, 4))


@pytest.mark.parametrize(
    "unusual", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}]
)
def test_unusual_normalisations_take_the_plain_form(unusual):
    norm, x = nn.BatchNorm1d(5, **unusual), torch.randn(4, 8, 5)
    expected = plain(copy.deepcopy(norm), x, 0.0, True)
    assert torch.equal(norms.norm_act_max(norm, x), expected)


def test_a_bias_keeps_the_type_of_the_rows():
    """In float16, which autocast offers on a CPU too, the linear map has left its bias out."""
    norm, _ = pair(5)
    rows = torch.randn(6, 5)
    expected = norm(rows + 0.5)
    out = norms.norm_act(norm, rows.half(), 1.0, torch.full((5,), 0.5))
    assert out.dtype is torch.float16
    near(out, expected.double(), 2e-3)


@needs_numba
def test_a_pass_without_gradients_moves_the_running_statistics_all_the_same():
    norm, twin = pair(5)
    x = torch.randn(4, 8, 5)
    with torch.no_grad():
        out = norms.norm_act_max(norm, x.requires_grad_())
    plain(twin, x.double(), 0.0, True)
    assert not out.requires_grad and norm.num_batches_tracked == 1
    near(norm.running_var, twin.running_var, 2e-6)


@needs_numba
def test_two_backward_passes_add_up():
    norm, _ = pair(7)
    linear = nn.Linear(5, 7)
    rows, bias = norms.linear_before_norm(linear, norm, torch.randn(8, 5))
    loss = norms.norm_act(norm, rows, bias=bias).square().sum()
    loss.backward(retain_graph=True)
    once = linear.weight.grad.clone()
    linear.bias.grad.add_(3)  # it belongs to the weight: the next pass adds nothing to it
    loss.backward()
    torch.testing.assert_close(linear.weight.grad, 2 * once)
    assert (linear.bias.grad == 3).all()
