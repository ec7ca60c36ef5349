"""Cameras: known points on known pixels, the rigs, and the hash of a recipe."""

import numpy as np
import pytest

from data.rendering.cameras import (
    RIGS,
    Rig,
    describe_recipe,
    find_rig,
    hash_recipe,
    make_cameras,
    pixel_rays,
    project,
)
from utils.errors import ConfigError


def test_known_points_land_on_known_pixels():
    # At (3, 0, 0), looking along -x, y to the right and z up; f = 100 / tan 45 = 100.
    cameras = make_cameras(Rig(((0.0, 0.0),), distance=3, field_of_view=90), 200)
    points = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0.5, -0.5], [2, 0, 0]])
    pixels, depth = project(points, cameras.intrinsics, cameras.extrinsics)
    right, up = 100 + 100 / 3, 100 - 100 / 3
    expected = [[100, 100], [right, 100], [100, up], [125, 125], [100, 100]]
    np.testing.assert_allclose(pixels[0], expected, atol=1e-9)
    np.testing.assert_allclose(depth[0], [3, 3, 3, 2, 1], atol=1e-12)


def test_an_elevated_camera_sees_the_top_above_and_the_near_side_below():
    cameras = make_cameras(Rig(((90.0, 30.0),)), 200)  # from +y and above
    np.testing.assert_allclose(cameras.centres[0], [0, 3 * np.sqrt(3) / 2, 1.5], atol=1e-12)
    points = np.array([[0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]])
    (top, near, side), _ = (
        out[0] for out in project(points, cameras.intrinsics, cameras.extrinsics)
    )
    assert top[1] < 100 < near[1]
    assert side[0] < 100  # +x is on the left for who looks along -y


@pytest.mark.parametrize("name", RIGS)
def test_rigs_are_rigid_right_handed_upright_and_hold_the_unit_sphere(name):
    cameras = make_cameras(find_rig(name), 224)
    rotation = cameras.extrinsics[:, :3, :3]
    identity = np.tile(np.eye(3), (len(rotation), 1, 1))
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), identity, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    assert (rotation[:, 1, 2] < 0).all()  # the world's up is up in the image
    sphere = np.random.default_rng(0).normal(size=(2000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    pixels, depth = project(sphere, cameras.intrinsics, cameras.extrinsics)
    assert (depth > 0).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 224
    assert np.ptp(pixels, axis=1).min() > 0.9 * 224  # and fills the image


def test_the_shipped_rigs_look_from_where_they_say():
    centres = make_cameras(find_rig("ring12"), 64).centres
    azimuth = np.degrees(np.arctan2(centres[:, 1], centres[:, 0])) % 360
    np.testing.assert_allclose(azimuth, np.arange(12) * 30, atol=1e-9)
    np.testing.assert_allclose(np.degrees(np.arcsin(centres[:, 2] / 3)), 30)
    centres = make_cameras(find_rig("dual16"), 64).centres
    np.testing.assert_allclose(np.degrees(np.arcsin(centres[:, 2] / 3)), [30] * 8 + [-30] * 8)


def test_a_camera_straight_above_is_well_defined():
    cameras = make_cameras(Rig(((0.0, 90.0),)), 64)
    np.testing.assert_allclose(cameras.centres[0], [0, 0, 3], atol=1e-12)
    assert np.linalg.det(cameras.extrinsics[0, :3, :3]) == pytest.approx(1)


def test_rays_go_through_pixel_centres():
    cameras = make_cameras(find_rig("dual16"), 40)
    for view in (0, 5, 13):
        rays = pixel_rays(cameras, view, range(3, 9), range(20, 40))
        on_rays = cameras.centres[view] + 2.5 * rays.reshape(-1, 3)
        pixels, _ = project(on_rays, cameras.intrinsics[[view]], cameras.extrinsics[[view]])
        v, u = np.mgrid[3:9, 20:40] + 0.5
        np.testing.assert_allclose(pixels[0], np.stack([u, v], -1).reshape(-1, 2), atol=1e-9)


def test_the_hash_follows_the_views_and_not_the_name():
    recipe = describe_recipe("ring12", 224, "grey", 1)
    assert hash_recipe(recipe) == hash_recipe({**recipe, "name": "other"})
    others = [
        describe_recipe("dual16", 224, "grey", 1),
        describe_recipe("ring12", 128, "grey", 1),
        describe_recipe("ring12", 224, "depth", 1),
        describe_recipe("ring12", 224, "grey", 2),
        {**recipe, "distance": 3.5},
    ]
    assert len({hash_recipe(other) for other in [recipe, *others]}) == 6


def test_the_hash_is_the_same_on_every_machine():
    assert hash_recipe(describe_recipe("ring12", 224, "grey", 1)) == "6efe4846b0ff"


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean ring12"):
        find_rig("ring21")
