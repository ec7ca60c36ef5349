"""Hidden point removal against its definition, and the choice of a method."""

import numpy as np
import pytest
from helpers import ball, cloud_of, grid
from scipy.optimize import linprog

from data.geometry.sampling import sample_surface
from data.parts import BACKGROUND
from data.rendering.cameras import find_rig, make_cameras
from data.rendering.hidden_points import (
    HPR_RADIUS,
    VISIBILITIES,
    hidden_point_removal,
    see_from_views,
)
from data.rendering.rays import RayScene, see_points
from data.rendering.splats import estimate_normals, make_splats
from data.synthetic.shapes import make_shape, shape_rng
from scripts import compare_visibility
from utils.errors import ConfigError, DataError


def is_hull_vertex(points: np.ndarray, index: int) -> bool:
    """Whether no convex combination of the other points gives this one (a linear programme)."""
    others = np.delete(points, index, axis=0)
    matrix = np.vstack([others.T / np.abs(points).max(), np.ones(len(others))])
    target = np.append(points[index] / np.abs(points).max(), 1)
    return linprog(np.zeros(len(others)), A_eq=matrix, b_eq=target).status == 2  # infeasible


def test_the_definition_written_out():
    generator = np.random.default_rng(3)
    centres = np.array([[3.0, 0, 0], [0, -2, 1.5]])
    for radius in (0.1, 1.0):
        points = generator.uniform(-0.6, 0.6, (25, 3))
        seen = hidden_point_removal(points, centres, radius)
        for view, centre in enumerate(centres):
            q = points - centre
            length = np.linalg.norm(q, axis=1, keepdims=True)
            big = radius * 25 * length.max()
            flipped = np.concatenate([q + 2 * (big - length) * q / length, np.zeros((1, 3))])
            expected = [is_hull_vertex(flipped, i) for i in range(25)]
            assert seen[:, view].tolist() == expected


def test_of_a_convex_body_the_front_is_seen():
    points, centres = ball(), make_cameras(find_rig("dual16"), 64).centres
    cosine = points @ centres.T / 0.8 / 3
    clear = np.abs(cosine - 0.8 / 3) > 0.15
    seen = hidden_point_removal(points, centres)
    np.testing.assert_array_equal(seen[clear], (cosine > 0.8 / 3)[clear])


def test_the_lower_of_two_plates_is_hidden():
    points = np.concatenate([grid(0.3), grid(-0.3, half=0.4)])
    seen = hidden_point_removal(points, np.array([[0.01, 0.02, 3.0]]))
    assert seen[:400].mean() > 0.95
    assert not seen[400:].any()


def test_a_larger_radius_sees_more():
    points, _ = cloud_of("chair", 512)
    centres = make_cameras(find_rig("ring12"), 64).centres
    shares = [hidden_point_removal(points, centres, r).mean() for r in (0.005, 0.03, 0.3)]
    assert shares[0] < shares[1] < shares[2]


def test_the_order_of_the_points_changes_nothing_and_equal_points_agree():
    points, _ = cloud_of("plane", 256)
    points = np.concatenate([points, points[:50]])
    centres = make_cameras(find_rig("ring12"), 64).centres
    order = np.random.default_rng(0).permutation(len(points))
    seen = hidden_point_removal(points, centres)
    np.testing.assert_array_equal(seen[:50], seen[256:])
    np.testing.assert_array_equal(hidden_point_removal(points[order], centres), seen[order])


def test_a_flat_cloud_is_seen_whole_from_above_and_computed_edge_on():
    points = grid(0.0, count=12) + 0.0
    seen = hidden_point_removal(points, np.array([[0.0, 0, 3.0], [3.0, 0.1, 0.0]]))
    assert seen[:, 0].mean() > 0.9
    assert 0 < seen[:, 1].sum() < 144  # the hull is flat: joggled
    again = hidden_point_removal(points, np.array([[3.0, 0.1, 0.0]]))
    np.testing.assert_array_equal(again[:, 0], seen[:, 1])


def test_the_default_agrees_with_rays():
    scores = []
    for name in ("chair", "plane", "mug", "car"):
        points, shape = cloud_of(name)
        cameras = make_cameras(find_rig("ring12"), 128)
        truth = see_points(RayScene(shape.vertices, shape.faces), points, cameras.centres)
        scores.append(np.mean(see_from_views(points, cameras) == truth))
    assert np.mean(scores) > 0.87


@pytest.mark.slow
def test_the_comparison_prints_a_row_for_each_method(capsys):
    compare_visibility.main(["--shapes", "1", "--points", "64", "--image-size", "32"])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + 6 + 5
    assert all(row.count("|") == 8 for row in rows)
    truth = np.array([True, True, False, False])
    figures = compare_visibility.agreement(np.array([True, False, True, False]), truth)
    assert figures == (0.5, 0.5, 0.5, 1 / 3)


def test_bad_input_is_refused():
    points, centres = ball(50), np.array([[0.0, 0, 3]])
    with pytest.raises(ConfigError, match="radius 0"):
        hidden_point_removal(points, centres, 0)
    with pytest.raises(ConfigError, match="radius nan"):
        hidden_point_removal(points, centres, np.nan)
    with pytest.raises(DataError, match="point 0"):
        hidden_point_removal(np.full((9, 3), np.inf), centres)
    with pytest.raises(DataError, match="P >= 4"):
        hidden_point_removal(points[:3], centres)
    with pytest.raises(DataError, match="2 distinct"):
        hidden_point_removal(points[[0, 1, 0, 1]], centres)
    with pytest.raises(DataError, match="inside"):
        hidden_point_removal(points * 4, centres, HPR_RADIUS)
    with pytest.raises(ConfigError, match="splat, hpr"):
        see_from_views(points, make_cameras(find_rig("ring12"), 32), "rays")


@pytest.mark.parametrize("method", VISIBILITIES)
def test_labels_of_pixels_are_those_of_visible_points(method):
    """Acceptance: 99 % of the visible points whose 3 x 3 pixels are of one part show that part."""
    cameras, agreeing, clear = make_cameras(find_rig("dual16"), 224), 0, 0
    for name in ("chair", "plane", "mug", "car"):
        generator = shape_rng(0, name, 5001)
        shape = make_shape(name, generator)
        points, face = sample_surface(shape.vertices, shape.faces, 2048, generator)
        parts = shape.face_parts[face]
        splats = make_splats(points, estimate_normals(points), cameras)
        images = np.append(parts, np.uint8(BACKGROUND))[splats.point_index]  # found at -1
        view, point = np.nonzero(see_from_views(points, cameras, method, splats=splats).T)
        column, row = splats.centres[view, point, :2].astype(int).T
        images = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = np.stack(
            [images[view, row + i, column + j] for i in range(3) for j in range(3)], axis=1
        )
        inner = (around == around[:, :1]).all(axis=1)
        agreeing += (around[inner, 0] == parts[point[inner]]).sum()
        clear += inner.sum()
    assert clear > 30_000
    assert agreeing / clear > 0.99, agreeing / clear
