"""Views and visibility drawn from points: what is in front, what each pixel shows, how it looks."""

import numpy as np
import pytest
from helpers import ball, cloud_of, grid

from data.rendering.cameras import Rig, find_rig, make_cameras, project
from data.rendering.rays import BACKGROUND, RayScene, render_views, see_points
from data.rendering.splats import draw_splats, estimate_normals, make_splats, see_splats
from utils.errors import ConfigError, DataError

TOP = Rig(((0.0, 90.0),))


def test_normals_of_a_sphere_and_of_a_plane():
    points = ball()
    outward = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosine = np.einsum("pd,pd->p", estimate_normals(points), outward)
    assert np.abs(cosine).min() > 0.99
    tilted = grid(0.0) @ np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1.0]])  # on z = x
    expected = np.array([1, 0, -1]) / np.sqrt(2)
    np.testing.assert_allclose(np.abs(estimate_normals(tilted) @ expected), 1, atol=1e-9)


@pytest.mark.parametrize("size", [64, 128])
def test_of_a_sphere_the_near_side_is_seen(size):
    points, cameras = ball(), make_cameras(find_rig("ring12"), size)
    seen = see_splats(points, cameras)
    cosine = points @ cameras.centres.T / 0.8 / 3  # visible above radius / distance
    clear = np.abs(cosine - 0.8 / 3) > 0.15
    np.testing.assert_array_equal(seen[clear], (cosine > 0.8 / 3)[clear])


def test_the_lower_of_two_plates_is_hidden():
    points = np.concatenate([grid(0.3), grid(-0.3, half=0.4)])
    cameras = make_cameras(TOP, 96)
    assert see_splats(points, cameras)[:, 0].tolist() == [True] * 400 + [False] * 400
    below = make_cameras(Rig(((0.0, -90.0),)), 96)
    rim = np.abs(points[400:, :2]).max(axis=1) > 0.37
    assert see_splats(points, below)[400:][~rim].all()
    _, shown = draw_splats(points, np.tile([0, 0, 1.0], (800, 1)), cameras)
    assert set(np.unique(shown)) == set(range(-1, 400))


def test_surfaces_are_closed_and_backgrounds_white():
    points, cameras = ball(), make_cameras(find_rig("ring12"), 96)
    images, shown = draw_splats(points, estimate_normals(points), cameras)
    j, i = np.meshgrid(*[np.arange(96) + 0.5 - 48] * 2)
    # The outline of the sphere: tan of the angle asin(0.8 / 3) at the camera.
    outline = cameras.intrinsics[0, 0, 0] * np.tan(np.arcsin(0.8 / 3))
    far = np.hypot(i, j)
    assert (shown[:, far < outline - 1] >= 0).all()
    assert (shown[:, far > outline + 3] == -1).all()
    assert ((images == BACKGROUND) == (shown < 0)).all()


def test_a_pixel_shows_a_point_that_projects_near_it():
    points, _ = cloud_of("chair")
    cameras = make_cameras(find_rig("dual16"), 96)
    splats = make_splats(points, estimate_normals(points), cameras)
    pixels, depth = project(points, cameras.intrinsics, cameras.extrinsics)
    view, row, column = np.nonzero(splats.point_index >= 0)
    point = splats.point_index[view, row, column]
    away = np.linalg.norm(pixels[view, point] - np.stack([column, row], -1) - 0.5, axis=1)
    reach = 2 * splats.spacing * cameras.intrinsics[0, 0, 0] / depth[view, point] * 1.2
    assert (away <= np.hypot(reach, 0.8)).all()
    # Every point that nothing is before covers its own pixel.
    column, row = np.floor(pixels).astype(int).transpose(2, 0, 1)
    assert (splats.point_index[np.arange(16)[:, None], row, column] >= 0).all()


def test_nearest_pixels_of_a_plate_belong_to_the_nearest_point():
    points, cameras = grid(0.0, half=0.6, count=12), make_cameras(TOP, 128)
    splats = make_splats(points, np.tile([0, 0, 1.0], (144, 1)), cameras)
    view, row, column = np.nonzero(splats.point_index >= 0)
    place = np.stack([column, row], axis=-1)[:, None] + 0.5
    distance = np.linalg.norm(splats.centres[0, None, :, :2] - place, axis=-1)  # (pixels, points)
    chosen = np.take_along_axis(distance, splats.point_index[view, row, column][:, None], 1)[:, 0]
    # Away from the rim: there 4th neighbours are further, discs larger and domes flatter.
    middle = np.abs(place[:, 0] - 64).max(axis=1) < 20
    assert middle.sum() > 1000
    assert (chosen <= distance.min(axis=1) + 1e-3)[middle].all()


def test_the_order_of_the_points_changes_nothing():
    points, _ = cloud_of("plane")
    cameras = make_cameras(find_rig("ring12"), 64)
    normals, order = estimate_normals(points), np.random.default_rng(1).permutation(len(points))
    images, shown = draw_splats(points, normals, cameras)
    again, shown_again = draw_splats(points[order], -normals[order], cameras)
    np.testing.assert_array_equal(images, again)
    hit = shown >= 0
    np.testing.assert_array_equal(shown[hit], order[shown_again[hit]])
    seen = see_splats(points, cameras, normals)
    np.testing.assert_array_equal(see_splats(points[order], cameras, normals[order]), seen[order])


def test_of_equal_points_the_first_is_shown():
    points = np.concatenate([grid(0.0, count=6), grid(0.0, count=6)])
    normals = np.tile([0, 0, 1.0], (72, 1))
    _, shown = draw_splats(points, normals, make_cameras(TOP, 64))
    assert shown.max() == 35


@pytest.mark.parametrize(("shading", "share"), [("grey", 25), ("depth", 6), ("normal", 30)])
def test_views_look_like_those_of_the_mesh(shading, share):
    points, shape = cloud_of("sofa", 2048)
    cameras = make_cameras(find_rig("ring12"), 96)
    images, shown = draw_splats(points, estimate_normals(points), cameras, shading)
    meshes, faces = render_views(RayScene(shape.vertices, shape.faces), cameras, shading)
    assert images.shape == meshes.shape
    both = (shown >= 0) & (faces >= 0)
    assert both.sum() / ((shown >= 0) | (faces >= 0)).sum() > 0.85
    difference = np.abs(images[both].astype(int) - meshes[both])
    assert np.median(difference) < share


def test_visibility_agrees_with_rays():
    scores = []
    for name in ("chair", "plane", "mug", "car"):
        points, shape = cloud_of(name)
        cameras = make_cameras(find_rig("ring12"), 128)
        truth = see_points(RayScene(shape.vertices, shape.faces), points, cameras.centres)
        scores.append(np.mean(see_splats(points, cameras) == truth))
    assert np.mean(scores) > 0.85


def test_a_point_outside_the_image_is_not_seen():
    points = np.concatenate([grid(0.0, count=10), [[0.0, 2.9, 0.0]]])
    seen = see_splats(points, make_cameras(TOP, 64))
    assert seen[:100].all()
    assert not seen[100].any()


def test_bad_clouds_are_refused():
    points, cameras = ball(50), make_cameras(TOP, 32)
    broken = points.copy()
    broken[7, 1] = np.nan
    with pytest.raises(DataError, match="point 7"):
        see_splats(broken, cameras)
    with pytest.raises(DataError, match="P >= 4"):
        see_splats(points[:3], cameras)
    with pytest.raises(DataError, match="camera 0 is inside"):
        make_splats(points * 5, points, cameras)
    with pytest.raises(DataError, match="behind a camera"):
        make_splats(points + np.array([2.0, 0, 2.7]), points, cameras)
    with pytest.raises(ConfigError, match="there are grey"):
        draw_splats(points, points, cameras, "red")
    assert see_splats(np.zeros((4, 3)), cameras).all()
