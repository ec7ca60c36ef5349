"""Single clouds from files: formats, extra columns, refusals, the frame."""

import contextlib

import numpy as np
import pytest
import trimesh

from data.geometry.clouds import SURFACE_POINTS, normalise_cloud, read_cloud
from utils.errors import DataError

POINTS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


def write_text(path, array, delimiter=" ", header=""):
    np.savetxt(path, array, fmt="%.9g", delimiter=delimiter, header=header)
    return path


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.xyz", " "), ("a.txt", ","), ("a.txt", ";"), ("a.XYZ", "\t")]
)
def test_text_clouds_with_any_delimiter_comments_and_extra_columns(tmp_path, name, delimiter):
    wide = np.column_stack([POINTS, POINTS])
    path = write_text(tmp_path / name, wide, delimiter, header="x y z nx ny nz")
    np.testing.assert_array_equal(read_cloud(path).astype(np.float32), POINTS)


def test_npy_ply_and_off_vertices(tmp_path):
    np.save(tmp_path / "a.npy", np.column_stack([POINTS, POINTS]).astype(np.float64))
    trimesh.PointCloud(POINTS).export(tmp_path / "a.ply")
    write_text(tmp_path / "a.off", POINTS)
    (tmp_path / "a.off").write_text("OFF\n50 0 0\n" + (tmp_path / "a.off").read_text())
    for suffix in ("npy", "ply", "off"):
        cloud = read_cloud(tmp_path / f"a.{suffix}")
        assert cloud.dtype == np.float64
        np.testing.assert_array_equal(cloud.astype(np.float32), POINTS)


@pytest.mark.parametrize("suffix", ["ply", "off"])
def test_a_mesh_gives_points_of_its_surface(tmp_path, suffix):
    trimesh.creation.box((2, 2, 2)).export(tmp_path / f"box.{suffix}")
    cloud = read_cloud(tmp_path / f"box.{suffix}")
    assert cloud.shape == (SURFACE_POINTS, 3)
    np.testing.assert_allclose(np.abs(cloud).max(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(cloud, read_cloud(tmp_path / f"box.{suffix}"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (POINTS[:3], "3 points, expected 32"),
        (POINTS[:, :2], "expected"),
        (POINTS[:0], "points"),
        (np.where(np.arange(150).reshape(50, 3) == 21, np.nan, POINTS), "the first is number 7"),
        (np.where(np.arange(150).reshape(50, 3) == 21, np.inf, POINTS), "not finite"),
        (np.where(np.arange(150).reshape(50, 3) == 21, 1e300, POINTS.astype(float)), "not finite"),
        (np.ones((50, 3)), "one place"),
    ],
)
def test_unusable_clouds_are_refused_in_one_line(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    write_text(tmp_path / "a.xyz", array)
    for name in ("a.npy", "a.xyz"):
        with pytest.raises(DataError, match=message) as caught:
            read_cloud(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b""),
        ("a.npy", b"no array"),
        ("a.npy", b"PK\x03\x04 a broken archive"),
        ("a.xyz", b"dear reader of this\n"),
        ("a.xyz", b"\xff\xfe\x00"),
        ("a.ply", b"no ply"),
        ("a.ply", b""),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n"),
        ("a.off", b"no off"),
        ("a.las", b"whatever"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_cloud(tmp_path / name)


@pytest.mark.parametrize("array", [np.array(["a"] * 50), np.ones((50, 3), complex), np.ones(50)])
def test_arrays_that_are_no_clouds_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError):
        read_cloud(tmp_path / "a.npy")


def test_an_array_too_big_for_the_memory_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((50, 3)))
    content = (tmp_path / "a.npy").read_bytes()
    longer = content.replace(b"(50, 3), }" + 11 * b" ", b"(50" + 11 * b"0" + b", 3), }")
    assert longer != content
    (tmp_path / "a.npy").write_bytes(longer)
    with pytest.raises(DataError, match="no readable"):
        read_cloud(tmp_path / "a.npy")


@pytest.mark.parametrize("faces", [False, True])
def test_a_cloud_far_from_its_origin_keeps_its_shape(tmp_path, faces):
    place = np.array([500_000.0, 4_600_000.0, 100.0])  # map coordinates in metres
    ball = trimesh.creation.icosphere(2)
    clouds = []
    for shift in (0 * place, place):
        vertices = "\n".join(f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in ball.vertices + shift)
        triangles = "\n".join(f"3 {a} {b} {c}" for a, b, c in ball.faces) if faces else ""
        count = len(ball.faces) if faces else 0
        path = tmp_path / "a.off"
        path.write_text(f"OFF\n{len(ball.vertices)} {count} 0\n{vertices}\n{triangles}\n")
        clouds.append(normalise_cloud(read_cloud(path)))
    np.testing.assert_allclose(*clouds, atol=1e-5)


def test_a_truncated_text_ply_is_refused(tmp_path):
    content = trimesh.PointCloud(POINTS).export(file_type="ply", encoding="ascii")
    (tmp_path / "a.ply").write_bytes(content)
    assert len(read_cloud(tmp_path / "a.ply")) == 50
    (tmp_path / "a.ply").write_bytes(content[: int(0.9 * len(content))])
    with pytest.raises(DataError, match="truncated"):
        read_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("line", "message"),
    [("1 2", "line 42 has 2 columns"), ("1 two 3", "line 42 holds a word that is no number")],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    rows = [" ".join(map(str, row)) for row in POINTS.tolist()]
    (tmp_path / "a.xyz").write_text("\n".join(["# x y z", *rows[:40], line, *rows[40:]]))
    with pytest.raises(DataError, match=f"a.xyz: {message}"):
        read_cloud(tmp_path / "a.xyz")


def test_a_damaged_header_of_an_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", POINTS)
    content = (tmp_path / "a.npy").read_bytes()
    for place in range(10, 80):
        for byte in (b"(", b"\\", b"\x00", b"'", b"\n"):
            (tmp_path / "a.npy").write_bytes(content[:place] + byte + content[place + 1 :])
            with contextlib.suppress(DataError):
                read_cloud(tmp_path / "a.npy")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no cloud at"):
        read_cloud(tmp_path / "none.ply")


def test_a_cloud_is_brought_into_the_frame_of_prepared_sets():
    cloud = normalise_cloud(POINTS * [1, 5, 1] + 40, up="y")
    assert cloud.dtype == np.float32
    assert np.argmax(np.ptp(cloud, axis=0)) == 2
    assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(cloud.min(axis=0), -cloud.max(axis=0), atol=1e-6)
