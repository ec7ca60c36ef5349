"""What random changes do to clouds and views, in which order, and to each copy."""

import numpy as np
import pytest
import torch

from data.augment import augment_points, augment_views
from data.rng import normal, sample_keys
from utils.config import validate
from utils.errors import ConfigError
from utils.settings import PointAugmentation, StudentConfig, ViewAugmentation

EVERYTHING = PointAugmentation(
    scale=(2 / 3, 1.5), anisotropic=True, shift=0.2, dropout=0.9, rotation="any", jitter=0.02
)


def clouds(shapes=64, points=50):
    torch.manual_seed(0)
    return {"points": torch.randn(shapes, points, 3), "index": torch.arange(shapes)}


def test_draws_are_those_of_the_tables():
    """Numbers of the version that the tables were made with."""
    index = torch.tensor([3, 17])
    seen = torch.tensor([True, False, False, True]).view(1, 4, 1).expand(2, 4, 2)
    points = torch.linspace(-1, 1, 24).view(2, 4, 3)
    settings = PointAugmentation(scale=(2 / 3, 1.5), anisotropic=True, shift=0.2, dropout=0.9)
    out = augment_points({"index": index, "points": points, "visibility": seen}, settings, 5, 2)
    first = [[-1.2416836, -1.0335236, -1.3054557]] * 2
    first += [[-0.6757820, -0.3355525, -0.6032433], [-0.3928312, 0.0134331, -0.2521371]]
    torch.testing.assert_close(out["points"][0], torch.tensor(first))
    assert out["visibility"][1, :, 0].tolist() == [True, False, True, True]
    views = (torch.arange(32) * 7).to(torch.uint8).view(2, 1, 1, 4, 4)
    settings = ViewAugmentation(flip=True, scale=(0.8, 1.25), shift=0.1, brightness=0.3)
    row = augment_views({"index": index, "views": views}, settings, 5, 2)["views"][0, 0, 0, 1]
    torch.testing.assert_close(row, torch.tensor([0.1415517, 0.1760740, 0.2105963, 0.2326696]))


def test_copies_change_in_their_own_ways():
    batch = clouds()
    copies = [augment_points(batch, EVERYTHING, 3, 1, copy)["points"] for copy in range(3)]
    assert torch.equal(copies[0], augment_points(batch, EVERYTHING, 3, 1)["points"])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        moved = copies[one].mean(dim=1) - copies[other].mean(dim=1)
        assert moved.abs().amax(dim=1).min() > 1e-3
    # without a trace of one in the other, nor of an epoch's copy in another epoch
    shift = PointAugmentation(shift=1.0)
    still = {"points": torch.zeros(500, 1, 3), "index": torch.arange(500)}
    draws = [
        augment_points(still, shift, 3, epoch, copy)["points"].flatten().numpy()
        for epoch, copy in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))
    ]
    correlation = np.corrcoef(draws)
    assert np.abs(correlation - np.eye(5)).max() < 0.09


def test_the_order_is_that_of_the_list():
    batch = clouds()
    both = {"scale": (2.0, 2.0), "shift": 0.5}
    one = augment_points(batch, PointAugmentation(**both), 0, 0)["points"]
    other = augment_points(batch, PointAugmentation(**both, order=("shift", "scale")), 0, 0)
    torch.testing.assert_close(other["points"] - one, one - 2 * batch["points"])
    # jitter before dropout: the points that are replaced are one point, behind it they are many
    last = PointAugmentation(dropout=0.9, jitter=0.01)
    first = PointAugmentation(dropout=0.9, jitter=0.01, order=("jitter", "dropout"))
    for settings, equal in ((last, False), (first, True)):
        out = augment_points(batch, settings, 0, 0)["points"]
        repeats = (out[:, 1:] == out[:, :1]).all(dim=2)
        assert bool(repeats.any()) == equal


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"order": ["scale", "jitter"], "shift": 0.1}, "augment: shift is on and not in order"),
        ({"order": ["scale", "jitter", "scale"]}, "augment: order has scale more than once"),
        ({"order": ["turn"]}, "augment.order.0='turn'"),
        ({"rotation_degrees": 30}, "augment: rotation_degrees is of rotation=z, found"),
        ({"rotation": "z", "rotation_degrees": 181}, "augment.rotation_degrees=181"),
        ({"jitter": -0.1}, "augment.jitter=-0.1"),
    ],
)
def test_changes_that_do_not_fit_together_are_refused(augment, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        validate(StudentConfig, {"data": {"name": "Set"}, "augment": augment})


def test_rotation_about_z_keeps_z_and_lengths():
    batch = clouds(2000, 3)
    out = augment_points(batch, PointAugmentation(rotation="z"), 1, 0)["points"]
    assert torch.equal(out[..., 2], batch["points"][..., 2])
    torch.testing.assert_close(out.norm(dim=2), batch["points"].norm(dim=2))
    flat = torch.view_as_complex(out[..., :2].contiguous())
    angle = (flat / torch.view_as_complex(batch["points"][..., :2].contiguous())).angle()
    torch.testing.assert_close(angle, angle[:, :1].expand_as(angle), atol=1e-4, rtol=0)
    counts = torch.histc(angle[:, 0], 8, -torch.pi, torch.pi)
    assert counts.min() > 200 and counts.max() < 300
    little = PointAugmentation(rotation="z", rotation_degrees=10)
    out = augment_points(batch, little, 1, 0)["points"]
    cosine = torch.cosine_similarity(out[..., :2], batch["points"][..., :2], dim=2)
    assert np.cos(np.radians(10.01)) < cosine.min() < np.cos(np.radians(9.8))


def test_any_rotation_is_a_rotation_and_uniform():
    axes = {"points": torch.eye(3).expand(4000, 3, 3), "index": torch.arange(4000)}
    out = augment_points(axes, PointAugmentation(rotation="any"), 1, 0)["points"]
    torch.testing.assert_close(out @ out.mT, torch.eye(3).expand(4000, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(out) > 0.99).all()
    # the trace of a uniform rotation: mean 0 and mean square 1, of uniform angles: 1 and 3
    trace = out.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert abs(trace.mean()) < 0.06 and abs(trace.square().mean() - 1) < 0.1
    # each axis goes everywhere: the height of a uniform point on a sphere is uniform
    for axis in range(3):
        counts = torch.histc(out[:, axis, 2], 8, -1, 1)
        assert counts.min() > 400 and counts.max() < 600


def test_jitter_is_clipped_noise_of_every_coordinate():
    batch = clouds(64, 101)
    noise = augment_points(batch, PointAugmentation(jitter=0.02), 0, 0)["points"] - batch["points"]
    assert abs(noise.std() - 0.02) < 5e-4 and abs(noise.mean()) < 5e-4
    assert len(noise.unique()) > 1000
    assert 0.0499 < noise.abs().max() < 0.0501  # 2.5 deviations
    assert ((noise.abs() > 0.0499).float().mean() - 0.0124).abs() < 0.003
    pairs = np.corrcoef(noise.flatten(0, 1).T.numpy()) - np.eye(3)
    assert np.abs(pairs).max() < 0.05
    numbers = normal(sample_keys(0, 0, torch.arange(300)), 301, 11)
    assert abs(numbers.std() - 1) < 0.01 and 3.5 < numbers.abs().max() < 5.8
    assert abs((numbers.abs() < 1).float().mean() - 0.6827) < 0.005


def test_fields_without_points_follow_too():
    batch = clouds(8, 40) | {"parts": torch.arange(40).expand(8, 40)}
    whole = augment_points(batch, EVERYTHING, 0, 0, copy=1)
    del batch["points"]
    assert torch.equal(augment_points(batch, EVERYTHING, 0, 0, copy=1)["parts"], whole["parts"])
    only = {"index": torch.arange(3), "codes": torch.rand(3, 5)}
    assert augment_points(only, EVERYTHING, 0, 0)["codes"] is only["codes"]
    assert augment_views(only, ViewAugmentation(contrast=0.5), 0, 0)["codes"] is only["codes"]


def test_colours_change_alike_in_all_views_of_a_shape():
    torch.manual_seed(0)
    image = torch.randint(60, 200, (16, 1, 3, 8, 8), dtype=torch.uint8)
    batch = {"views": image.expand(16, 4, 3, 8, 8), "index": torch.arange(16)}
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    plain = image[:, 0].float() / 255
    for name in ("contrast", "saturation"):
        out = augment_views(batch, ViewAugmentation(**{name: 0.3}), 0, 0)["views"]
        assert torch.equal(out, out[:, :1].expand_as(out)) and out.min() >= 0 and out.max() <= 1
        before, after = ((weights * v).sum(dim=1, keepdim=True) for v in (plain, out[:, 0]))
        if name == "contrast":
            before, after = (grey.mean(dim=(1, 2, 3), keepdim=True) for grey in (before, after))
        torch.testing.assert_close(after, before, atol=1e-3, rtol=0)
        factor = (out[:, 0] - after).flatten(1).std(dim=1) / (plain - before).flatten(1).std(dim=1)
        assert 0.69 < factor.min() < 0.85 and 1.15 < factor.max() < 1.31
    second = augment_views(batch, ViewAugmentation(contrast=0.3), 0, 0, copy=1)["views"]
    first = augment_views(batch, ViewAugmentation(contrast=0.3), 0, 0)["views"]
    assert (second - first).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-4
    grey = {"views": batch["views"][:, :, :1], "index": batch["index"]}
    flat = augment_views(grey, ViewAugmentation(contrast=0.3), 0, 0)["views"]
    torch.testing.assert_close(flat.mean(), plain[:, :1].mean(), atol=1e-3, rtol=0)
