"""VAFP: values and gradients against naive twins, and what must not change them."""

import pytest
import torch

from models.terms.alignment import ViewProjection, alignment_loss, visible_max_pool
from scripts.reference.operations import project


def naive_max_pool(features, visibility):
    """A loop over samples and views; the gradient goes to the lowest-indexed maximum."""
    batch = len(features)
    pooled = []
    for b in range(batch):
        for v in range(visibility.shape[2]):
            rows = features[b][visibility[b, :, v]]  # (visible, C)
            if len(rows) == 0:
                pooled.append(0 * features[b, 0])
                continue
            first = (rows == rows.max(dim=0).values).to(torch.uint8).argmax(dim=0)
            pooled.append(rows.gather(0, first[None])[0])
    return torch.stack(pooled).view(batch, visibility.shape[2], -1)


@pytest.mark.parametrize(
    ("batch", "points", "channels", "views"),
    [(1, 1, 1, 1), (2, 7, 5, 3), (3, 64, 33, 12), (2, 40, 8, 32)],
)
@pytest.mark.parametrize("kind", ["signed", "relu", "ties"])
def test_values_and_gradients_equal_the_naive_twin(batch, points, channels, views, kind):
    torch.manual_seed(points)
    features = torch.randn(batch, points, channels)
    if kind == "relu":
        features = features.relu()
    if kind == "ties":
        features = features.round()
    visibility = torch.rand(batch, points, views) < 0.4
    visibility[0, :, 0] = False  # a view that sees nothing
    upstream = torch.randn(batch, views, channels)
    results = []
    for pool in (visible_max_pool, naive_max_pool):
        leaf = features.clone().requires_grad_()
        pooled = pool(leaf, visibility)
        pooled.backward(upstream)
        results.append((pooled.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)
    assert (results[0][0][0, 0] == 0).all()


def test_negative_features_keep_their_maximum():
    features = torch.tensor([[[-3.0], [-1.0], [5.0]]])
    visibility = torch.tensor([[[True], [True], [False]]])
    assert visible_max_pool(features, visibility).item() == -1.0
    assert project(features, visibility).item() == 0.0  # what the product would give


def test_gradient_passes_gradcheck():
    torch.manual_seed(0)
    features = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    visibility = torch.rand(2, 6, 4) < 0.5
    assert torch.autograd.gradcheck(lambda x: visible_max_pool(x, visibility), features)


def test_equals_the_published_form_for_relu_features():
    torch.manual_seed(1)
    features = torch.randn(3, 50, 16).relu()
    visibility = torch.rand(3, 50, 5) < 0.3
    assert torch.equal(visible_max_pool(features, visibility), project(features, visibility))


def test_all_visible_is_the_global_maximum_and_none_visible_is_zero():
    features = -torch.rand(2, 9, 4) - 1
    everything = torch.ones(2, 9, 3, dtype=torch.bool)
    pooled = visible_max_pool(features, everything)
    assert torch.equal(pooled, features.amax(dim=1, keepdim=True).expand(2, 3, 4))
    assert (visible_max_pool(features, ~everything) == 0).all()


def test_a_common_permutation_and_an_invisible_point_change_nothing():
    torch.manual_seed(2)
    features, visibility = torch.randn(2, 30, 8), torch.rand(2, 30, 6) < 0.4
    visibility[:, 4] = False
    pooled = visible_max_pool(features, visibility)
    order = torch.randperm(30)
    assert torch.equal(visible_max_pool(features[:, order], visibility[:, order]), pooled)
    features[:, 4] = 1e6
    assert torch.equal(visible_max_pool(features, visibility), pooled)


def test_bfloat16_and_non_contiguous_input():
    features = torch.randn(2, 8, 20).transpose(1, 2)  # (2, 20, 8), strided
    visibility = torch.rand(2, 20, 3) < 0.5
    assert torch.equal(
        visible_max_pool(features, visibility), naive_max_pool(features.contiguous(), visibility)
    )
    low = features.bfloat16()
    assert torch.equal(visible_max_pool(low, visibility), naive_max_pool(low, visibility))


@pytest.mark.parametrize(
    "visibility",
    [
        torch.ones(2, 5, 3, dtype=torch.bool),
        torch.ones(2, 4, dtype=torch.bool),
        torch.ones(2, 4, 3),
    ],
)
def test_wrong_visibility_is_refused(visibility):
    with pytest.raises(ValueError, match="visibility must be"):
        visible_max_pool(torch.zeros(2, 4, 6), visibility)


def test_views_that_see_nothing_are_left_out_of_the_loss():
    student, teacher = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    student[0, 0] += 1.0
    student[0, 1] += 100.0
    seen = torch.tensor([[True, False]])
    assert alignment_loss(student, teacher, seen).item() == 1.0
    student.requires_grad_()
    loss = alignment_loss(student, teacher, torch.zeros(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert (student.grad == 0).all()


@pytest.mark.parametrize(
    ("distance", "expected"), [("l1", 1.5), ("l2", 2.5), ("cosine", 1 - 3 / 10**0.5)]
)
def test_the_distances_by_hand(distance, expected):
    student = torch.tensor([[[3.0, 1.0], [9.0, 9.0]]])
    taught = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    seen = torch.tensor([[True, False]])
    assert alignment_loss(student, taught, seen, distance).item() == pytest.approx(expected)


def test_no_gradient_reaches_the_teacher_and_codes_are_not_negative():
    torch.manual_seed(3)
    head = ViewProjection(8, code_size=16)
    teacher = torch.rand(4, 3, 16, requires_grad=True)
    codes = head(torch.randn(4, 3, 8))
    assert codes.shape == (4, 3, 16)
    assert (codes >= 0).all()
    alignment_loss(codes, teacher, torch.ones(4, 3, dtype=torch.bool)).backward()
    assert teacher.grad is None
    assert head.linear.bias is None
    assert head.linear.weight.grad.abs().sum() > 0
