"""Surface samples: where they lie and how dense; the stored order against naive twins."""

import numpy as np
import pytest
import torch

from data.geometry.sampling import face_normals, farthest_point_order, sample_surface

# An L of two triangles of areas 0.5 and 4, and one without area between them.
VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 4], [0, 2, 4.0]])
FACES = np.array([[0, 1, 2], [0, 0, 1], [0, 3, 4]])


def test_normals_follow_the_right_hand_and_are_zero_without_area():
    normals, areas = face_normals(VERTICES, FACES)
    np.testing.assert_allclose(normals, [[0, 0, 1], [0, 0, 0], [-1, 0, 0]])
    np.testing.assert_allclose(areas, [0.5, 0, 4])


def test_samples_lie_on_their_faces_in_proportion_to_area():
    points, face = sample_surface(VERTICES, FACES, 20000, np.random.default_rng(0))
    assert points.dtype == np.float32
    assert (face == 1).sum() == 0
    assert (face == 0).mean() == pytest.approx(0.5 / 4.5, abs=0.01)
    assert (points[face == 0][:, 2] == 0).all()
    assert (points[face == 2][:, 0] == 0).all()
    assert (points[face == 0][:, :2].sum(axis=1) <= 1 + 1e-6).all()


def test_samples_are_uniform_inside_a_face():
    triangle = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
    points, _ = sample_surface(triangle, np.array([[0, 1, 2]]), 40000, np.random.default_rng(0))
    # Halving the sides gives four triangles of equal area.
    x, y = points[:, 0], points[:, 1]
    quarters = [x > 0.5, y > 0.5, x + y < 0.5, (x <= 0.5) & (y <= 0.5) & (x + y >= 0.5)]
    np.testing.assert_allclose([q.mean() for q in quarters], 0.25, atol=0.01)


def test_trailing_faces_without_area_are_never_drawn():
    class Last:
        def random(self, shape):
            return np.full(shape, np.nextafter(1, 0))

    _, face = sample_surface(VERTICES, np.array([[0, 1, 2], [0, 0, 1]]), 3, Last())
    assert (face == 0).all()


def naive_order(points):
    """Farthest points by the definition, with a full distance matrix."""
    x, y, z = points.T
    square = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 + (z[:, None] - z) ** 2
    chosen = [max(range(len(points)), key=lambda i: (x[i] ** 2 + y[i] ** 2 + z[i] ** 2, -i))]
    while len(chosen) < len(points):
        left = [i for i in range(len(points)) if i not in chosen]
        chosen.append(max(left, key=lambda i: (square[i, chosen].min(), -i)))
    return chosen


def test_order_equals_the_naive_twin():
    points = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    assert farthest_point_order(points).tolist() == naive_order(points)


def test_ties_go_to_the_lowest_index():
    grid = np.stack(np.meshgrid(*[[-1.0, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid = grid.astype(np.float32)
    order = farthest_point_order(grid)
    assert order[:2].tolist() == [0, 26]
    assert order.tolist() == naive_order(grid)


def test_duplicates_are_taken_last_and_once():
    points = np.float32([[1, 0, 0]] * 3 + [[0, 1, 0]] * 2 + [[0, 0, 0.5]])
    order = farthest_point_order(points)
    assert sorted(order.tolist()) == list(range(6))
    assert order[:3].tolist() == [0, 3, 5]


def test_a_prefix_is_the_subset_of_that_size():
    points = np.random.default_rng(1).random((500, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        farthest_point_order(points, 100), farthest_point_order(points)[:100]
    )
    assert len(farthest_point_order(points, 900)) == 500


def test_float32_sampling_from_point_0_of_a_stored_cloud_finds_a_prefix():
    points, _ = sample_surface(VERTICES, FACES, 2048, np.random.default_rng(2))
    stored = torch.from_numpy(points[farthest_point_order(points)])
    nearest = torch.full((2048,), torch.inf)
    current, found = 0, []
    for _ in range(512):
        found.append(current)
        delta = stored - stored[current]
        square = delta * delta
        nearest = torch.minimum(nearest, square[:, 0] + square[:, 1] + square[:, 2])
        current = int(nearest.argmax())
    assert found == list(range(512))
