"""Rendering and visibility on shapes whose answer is known."""

import numpy as np
import pytest
import trimesh

from data.geometry.sampling import sample_surface
from data.rendering.cameras import Rig, find_rig, make_cameras, project
from data.rendering.rays import BACKGROUND, SHADINGS, RayScene, render_views, see_points
from utils.errors import ConfigError


def plate(z, half=0.5):
    """A square at height z as two triangles: vertices (4, 3), faces (2, 3)."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    return np.column_stack([corners, np.full(4, z)]), np.array([[0, 1, 2], [0, 2, 3]])


def join(*meshes):
    offsets = np.cumsum([0] + [len(vertices) for vertices, _ in meshes])
    faces = [faces + shift for (_, faces), shift in zip(meshes, offsets, strict=False)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces)


def sphere(subdivisions=4):
    ball = trimesh.creation.icosphere(subdivisions)
    return np.array(ball.vertices), np.array(ball.faces)


def test_a_sphere_is_seen_up_to_its_horizon():
    vertices, faces = sphere(6)
    points, _ = sample_surface(vertices, faces, 4000, np.random.default_rng(0))
    centres = make_cameras(find_rig("dual16"), 64).centres
    seen = see_points(RayScene(vertices, faces), points, centres)
    # From distance d a point p of the unit sphere is seen where p . c / d > 1 / d.
    cosine = points @ centres.T / 3
    clear = np.abs(cosine - 1 / 3) > 0.02  # a face of this sphere is 0.02 wide
    assert clear.mean() > 0.97
    np.testing.assert_array_equal(seen[clear], (cosine > 1 / 3)[clear])


def test_of_two_plates_the_far_one_is_hidden_behind_the_near():
    scene = RayScene(*join(plate(0.2), plate(-0.2)))
    points = np.float32([[0.1, 0.2, 0.2], [0.1, 0.2, -0.2], [0.45, 0.45, -0.2]])
    above, below = np.array([0, 0, 3.0]), np.array([0, 0, -3.0])
    seen = see_points(scene, points, np.stack([above, below]))
    assert seen.tolist() == [[True, False], [False, True], [False, True]]


def test_a_slanted_view_reaches_below_the_upper_plate():
    scene = RayScene(*join(plate(0.2), plate(-0.2)))
    # From 45 degrees the shadow of the upper plate on the lower one moves by 0.4 (at infinity).
    camera = 200 * np.array([[1.0, 0, 1]])
    points = np.float32([[0.2, 0, -0.2], [0.0, 0, -0.2]])
    assert see_points(scene, points, camera)[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("gap", [3e-4, 0.01])
def test_thin_walls_hide_what_is_behind_them(gap):
    scene = RayScene(*join(plate(gap / 2), plate(-gap / 2)))
    points = np.float32([[0.1, 0.2, gap / 2], [0.1, 0.2, -gap / 2]])
    seen = see_points(scene, points, np.array([[0.3, 0.1, 3.0]]))
    assert seen[:, 0].tolist() == [True, False]


def test_a_sheet_without_thickness_is_seen_from_both_sides():
    scene = RayScene(*plate(0.0))
    points = np.float32([[0.1, 0.2, 0.0]])
    assert see_points(scene, points, np.array([[0, 0, 3.0], [0.5, 0, -3]])).all()


def test_into_an_open_box_one_sees_from_above_only():
    box = trimesh.creation.box((1, 1, 1))
    keep = box.face_normals[:, 2] < 0.5  # the lid is off
    scene = RayScene(np.array(box.vertices), np.array(box.faces[keep]))
    floor = np.float32([[0.2, -0.1, -0.5]])
    eyes = np.array([[0, 0, 3.0], [3.0, 0, 0], [0.5, 0, 2.9], [2.5, 0, 2.0], [0, 0, -3.0]])
    assert see_points(scene, floor, eyes)[0].tolist() == [True, False, True, False, True]


def test_the_silhouette_of_a_sphere_is_the_projected_circle():
    cameras = make_cameras(find_rig("ring12"), 100)
    images, _ = render_views(RayScene(*sphere()), cameras)
    assert images.shape == (12, 100, 100)
    assert images.dtype == np.uint8
    v, u = np.mgrid[:100, :100] + 0.5 - 50
    radius = cameras.intrinsics[0, 0, 0] * np.tan(np.arcsin(1 / 3))
    inside = np.hypot(u, v) < radius
    clear = np.abs(np.hypot(u, v) - radius) > 1
    for image in images:
        np.testing.assert_array_equal((image != BACKGROUND)[clear], inside[clear])


def test_grey_does_not_depend_on_winding():
    cameras = make_cameras(find_rig("dual16"), 48)
    vertices, faces = sphere(2)
    flipped = faces.copy()
    flipped[::2] = flipped[::2, ::-1]
    for shading in ("grey", "normal"):
        np.testing.assert_array_equal(
            render_views(RayScene(vertices, faces), cameras, shading)[0],
            render_views(RayScene(vertices, flipped), cameras, shading)[0],
        )


def test_grey_tells_faces_apart_and_object_from_background():
    box = trimesh.creation.box((0.8, 0.8, 0.8))
    cameras = make_cameras(Rig(((30.0, 30.0),)), 96)
    image = render_views(RayScene(np.array(box.vertices), np.array(box.faces)), cameras)[0][0]
    greys = image[image != BACKGROUND].astype(int)
    face_greys = [greys[(greys > low) & (greys <= low + 16)] for low in range(0, 240, 16)]
    assert sum(len(part) > 200 for part in face_greys) >= 3
    assert greys.max() < 235


@pytest.mark.parametrize(
    ("elevation", "facing", "towards_sky"), [(90, 1, 0.8), (-90, 1, -0.8), (30, 0.5, 0.8)]
)
def test_grey_is_ambient_headlight_and_sky(elevation, facing, towards_sky):
    cameras = make_cameras(Rig(((0.0, float(elevation)),)), 51)
    image = render_views(RayScene(*plate(0.0)), cameras)[0][0]
    expected = 255 * (0.05 + 0.40 * facing + 0.45 * (1 + towards_sky) / 2)
    assert abs(int(image[25, 25]) - expected) < 1


def test_depth_is_the_distance_along_the_axis():
    scene = RayScene(*plate(0.4, half=0.4))
    cameras = make_cameras(Rig(((0.0, 90.0),)), 50)  # straight above, the plate at depth 2.6
    image = render_views(scene, cameras, "depth")[0][0]
    assert set(np.unique(image).tolist()) == {round(254 * 0.6 / 2), BACKGROUND}
    assert image[25, 25] != BACKGROUND


def test_normals_are_those_of_the_camera_frame():
    scene = RayScene(*plate(0.0))
    straight = render_views(scene, make_cameras(Rig(((0.0, 90.0),)), 50), "normal")[0][0]
    assert straight[25, 25].tolist() == [128, 128, 1]  # towards the viewer: z = -1
    slanted = render_views(scene, make_cameras(Rig(((0.0, 30.0),)), 50), "normal")[0][0]
    expected = np.rint(128 + 127 * np.array([0, -np.cos(np.pi / 6), -0.5]))
    assert slanted[25, 25].tolist() == expected.tolist()


def test_a_small_thing_is_drawn_where_it_projects():
    vertices, faces = sphere(1)
    place = np.array([0.5, -0.3, 0.4])
    cameras = make_cameras(find_rig("ring12"), 120)
    images, _ = render_views(RayScene(vertices * 0.05 + place, faces), cameras)
    pixels, _ = project(place[None], cameras.intrinsics, cameras.extrinsics)
    for image, (pixel,) in zip(images, pixels, strict=True):
        rows, columns = np.nonzero(image != BACKGROUND)
        middle = [columns.mean() + 0.5, rows.mean() + 0.5]
        np.testing.assert_allclose(middle, pixel, atol=0.5)


def test_rendering_repeats_exactly():
    cameras = make_cameras(find_rig("ring12"), 64)
    for shading in SHADINGS:
        first, second = (render_views(RayScene(*sphere(3)), cameras, shading)[0] for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_an_unknown_shading_is_refused():
    with pytest.raises(ConfigError, match="grey, depth, normal"):
        render_views(RayScene(*sphere(1)), make_cameras(find_rig("ring12"), 8), "gray")
