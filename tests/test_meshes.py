"""Meshes: formats, the oddities of OFF, what is refused, and the frame."""

import numpy as np
import pytest
import trimesh

from data.geometry.meshes import into_unit_sphere, load_mesh, turn_up
from utils.errors import ConfigError, DataError

SQUARE = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"


def write(tmp_path, text, name="mesh.off"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        f"OFF\n4 1 0\n{SQUARE}4 0 1 2 3\n",
        f"OFF4 1 0\n{SQUARE}4 0 1 2 3\n",  # the joined first line of ModelNet
        f"OFF 4 1 0\n{SQUARE}4 0 1 2 3",
        f"# made by hand\nOFF # magic\n\n4 1 0\n{SQUARE}# faces\n4 0 1 2 3 # a square\n",
        f"OFF\n4 1 0\n{SQUARE}4 0 1 2 3\n".replace("\n", "\r\n"),
        f"OFF\n4 1 0\n{SQUARE}4 0 1 2 3 255 0 0\n",  # a colour behind the face
        "COFF\n4 1 0\n" + SQUARE.replace("\n", " 255 0 0 255\n") + "4 0 1 2 3\n",
        # a colour behind every other vertex: 16 numbers, 4 for each of the 4 on average
        "OFF\n4 1 0\n0 0 0\n1 0 0 255 0\n1 1 0 255 0\n0 1 0\n4 0 1 2 3\n",
        f"OFF\n4 2 0\n{SQUARE}2 0 1\n4 0 1 2 3\n",  # a segment, which is no surface
    ],
)
def test_off_in_all_its_spellings(tmp_path, text):
    mesh = load_mesh(write(tmp_path, text))
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_off_fans_polygons_of_mixed_size(tmp_path):
    text = f"OFF\n5 3 0\n{SQUARE}.5 2 0\n3 2 4 3\n5 0 1 2 4 3\n4 3 2 1 0\n"
    faces = load_mesh(write(tmp_path, text)).faces.tolist()
    assert faces == [[2, 4, 3], [0, 1, 2], [0, 2, 4], [0, 4, 3], [3, 2, 1], [3, 1, 0]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin with OFF"),
        ("solid cube", "does not begin with OFF"),
        ("OFF", "no counts"),
        ("OFF\nfour 1 0\n", "no counts"),
        ("OFF\n-4 1 0\n", "negative"),
        ("OFF\n0 0 0\n", "no faces"),
        (f"OFF\n4 0 0\n{SQUARE}", "no faces"),
        ("OFF\n4 1 0\n0 0 0\n1 0 0\n", "truncated"),
        (f"OFF\n4 2 0\n{SQUARE}3 0 1 2\n", "truncated"),
        (f"OFF\n4 1 0\n{SQUARE}4 0 1", "truncated"),
        (f"OFF\n4 1 0\n{SQUARE}3 0 1 4\n", "vertex numbers"),
        (f"OFF\n4 1 0\n{SQUARE}3 0 1 -1\n", "vertex numbers"),
        (f"OFF\n4 1 0\n{SQUARE}3 0 1 x\n", "face"),
        (f"OFF\n4 1 0\n{SQUARE}3 0 1 99999999999999999999\n", "face"),
        (f"OFF\n4 1 0\n{SQUARE}99999999999999999999 0 1 2\n", "face"),
        ("OFF\n2 1 0\n0 0\n1 1 1 1\n3 0 1 1\n", "not a vertex: '0 0'"),
        ("OFF\n3 1 0\n0 0 0\n1 x 0\n0 1 0\n3 0 1 2\n", "not a vertex"),
        ("OFF\n3 1 0\n0 0\n1 0\n0 1\n3 0 1 2\n", "2 coordinates"),
        ("OFF\n3 1 0\n0 0 0\n1 nan 0\n0 1 0\n3 0 1 2\n", "not finite"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "no area"),
        ("OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", "no area"),
    ],
)
def test_unusable_off_is_refused_with_its_reason(tmp_path, text, reason):
    with pytest.raises(DataError, match=reason):
        load_mesh(write(tmp_path, text))


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "glb"])
def test_other_formats_give_the_same_surface(tmp_path, suffix):
    box = trimesh.creation.box((1, 2, 3))
    path = tmp_path / f"box.{suffix}"
    box.export(path)
    mesh = load_mesh(path)
    assert len(mesh.faces) == 12
    corners = np.sort(mesh.vertices[mesh.faces].reshape(-1, 3), axis=0)
    expected = np.sort(box.vertices[box.faces].reshape(-1, 3), axis=0)
    np.testing.assert_allclose(corners, expected, atol=1e-6)


def test_objects_of_a_scene_are_merged_at_their_places(tmp_path):
    scene = trimesh.Scene()
    box = trimesh.creation.box((1, 1, 1))
    for shift in (0, 5):
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([shift, 0, 0]))
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    assert len(mesh.faces) == 24
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), [6, 1, 1], atol=1e-6)


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "glb", "xyz"])
def test_files_that_are_no_mesh_are_refused(tmp_path, suffix):
    with pytest.raises(DataError):
        load_mesh(write(tmp_path, "this is a letter, not a mesh\n", f"letter.{suffix}"))


@pytest.mark.parametrize("encoding", ["binary", "ascii"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_truncated_ply_is_refused(tmp_path, encoding, share):
    content = trimesh.creation.icosphere(2).export(file_type="ply", encoding=encoding)
    (tmp_path / "whole.ply").write_bytes(content)
    assert len(load_mesh(tmp_path / "whole.ply").faces) == 320
    (tmp_path / "part.ply").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError):
        load_mesh(tmp_path / "part.ply")


def test_obj_with_a_comment_in_another_encoding(tmp_path):
    (tmp_path / "a.obj").write_bytes(b"# M\xf6bel\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert load_mesh(tmp_path / "a.obj").faces.tolist() == [[0, 1, 2]]


def test_a_ply_without_faces_is_refused(tmp_path):
    trimesh.PointCloud(np.random.default_rng(0).random((50, 3))).export(tmp_path / "cloud.ply")
    with pytest.raises(DataError, match="no faces"):
        load_mesh(tmp_path / "cloud.ply")


def test_unused_vertices_have_no_influence(tmp_path):
    text = "OFF\n5 1 0\n900 900 900\n0 0 0\nnan 0 0\n1 0 0\n0 1 0\n3 1 3 4\n"
    mesh = load_mesh(write(tmp_path, text))
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2]]


def test_parts_follow_the_polygons_they_were_given_for(tmp_path):
    path = write(tmp_path, f"OFF\n5 2 0\n{SQUARE}.5 2 0\n4 0 1 2 3\n3 2 4 3\n")
    np.savez(tmp_path / "mesh.parts.npz", face_parts=np.uint8([1, 0]), part_names=["roof", "wall"])
    mesh = load_mesh(path)
    assert mesh.face_parts.tolist() == [1, 1, 0]
    assert mesh.part_names == ("roof", "wall")


@pytest.mark.parametrize(
    "face_parts", [[1], [0, 2], [-1, 0], [[0], [1]], 0, [0.0, 1.0], ["roof", "wall"], []]
)
def test_parts_that_do_not_fit_are_refused(tmp_path, face_parts):
    path = write(tmp_path, f"OFF\n4 2 0\n{SQUARE}3 0 1 2\n3 0 2 3\n")
    np.savez(tmp_path / "mesh.parts.npz", face_parts=face_parts, part_names=["roof", "wall"])
    with pytest.raises(DataError, match="do not fit"):
        load_mesh(path)


def test_parts_that_are_no_archive_are_refused(tmp_path):
    path = write(tmp_path, f"OFF\n4 1 0\n{SQUARE}4 0 1 2 3\n")
    with open(tmp_path / "mesh.parts.npz", "wb") as file:
        np.save(file, np.zeros(1, np.uint8))
    with pytest.raises(DataError, match="unreadable part labels"):
        load_mesh(path)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    (tmp_path / "mesh.off").mkdir()
    with pytest.raises(DataError, match="unreadable: Is a directory"):
        load_mesh(tmp_path / "mesh.off")


@pytest.mark.parametrize(("up", "axis"), [("x", 0), ("y", 1), ("z", 2)])
def test_turning_up_is_a_rotation_that_carries_the_axis_to_z(up, axis):
    turned = turn_up(np.eye(3), up)  # rows: images of the axes
    assert turned[axis].tolist() == [0, 0, 1]
    assert np.linalg.det(turned) == pytest.approx(1)


def test_an_unknown_up_axis_is_a_usage_error():
    with pytest.raises(ConfigError):
        turn_up(np.eye(3), "w")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30, 1e200])
def test_the_unit_sphere_is_reached_in_any_units(scale):
    points = np.array([[0.0, 0, 0], [4, 0, 0], [0, 2, 0], [0, 0, 2]]) * scale
    fitted = into_unit_sphere(points)
    np.testing.assert_allclose(fitted.min(axis=0) + fitted.max(axis=0), 0, atol=1e-12)
    assert np.linalg.norm(fitted, axis=1).max() == pytest.approx(1)
