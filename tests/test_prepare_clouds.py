"""The whole way from clouds to a prepared set: what is stored, settings, bad input, resumption."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, slow_if
from helpers import FILES, contents, make_meshes
from layouts import (
    draw_cloud,
    make_clouds,
    make_modelnet_h5,
    make_modelnet_normal,
    make_scanobjectnn,
    make_shapenet_part,
    write_packed,
    write_table,
)

from data.geometry.clouds import normalise_cloud
from data.geometry.sampling import farthest_point_order
from data.parts import BACKGROUND
from data.prepare.__main__ import parse, prepare
from data.prepare.shape import CloudSettings, ShapeSettings
from data.rendering.cameras import hash_recipe, unpack_visibility
from data.rendering.hidden_points import DEFAULT_VISIBILITY
from data.sources.shapenetpart import PART_COUNTS
from data.storage import open_split
from utils.errors import ConfigError, DataError

SMALL = ["--image-size", "16", "--workers", "1"]


def run(source, root, *more):
    return prepare(parse([str(source), "--name", "Set", "--root", str(root), *SMALL, *more]))


def report_of(root):
    return json.loads((root / "Set" / "report.json").read_text())


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return make_modelnet_h5(tmp_path_factory.mktemp("packed") / "modelnet")


def test_a_packed_set_holds_its_clouds(packed, tmp_path):
    line = run(packed, tmp_path, "--up", "y")
    folder = tmp_path / "Set"
    assert line == (
        f"prepared 9 of 9 clouds of 64 points into {folder} (5 train / 4 test), skipped 0: see "
        f"{folder}/report.json"
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    split = open_split("Set", "train", tmp_path)
    assert split.class_names == ["cone", "vase"]
    assert split.labels.tolist() == [0, 0, 0, 1, 1]
    row = split.ids.index("vase/train/shape_02")
    expected = normalise_cloud(draw_cloud(2), "y")
    points = split.points()[row]
    np.testing.assert_array_equal(points, expected[farthest_point_order(expected)])
    np.testing.assert_allclose(np.linalg.norm(split.normals()[row], axis=1), 1, atol=1e-2)
    # a convex body: seen where the outer normal, here nearly the direction, looks at the camera
    rotation, shift = split.extrinsics[:, :3, :3], split.extrinsics[:, :3, 3]
    centres = -np.einsum("vji,vj->vi", rotation, shift)
    seen = unpack_visibility(split.visibility()[row], 12)
    nearer = np.linalg.norm(points[:, None] - centres, axis=-1) < np.linalg.norm(centres[0])
    assert (seen == nearer).mean() > 0.8
    views = split.views(row)
    assert views.shape == (12, 16, 16)
    assert (views < 255).any(axis=(1, 2)).all()


def test_the_first_points_are_kept(packed, tmp_path):
    run(packed, tmp_path / "all")
    run(packed, tmp_path / "some", "--points", "20")
    whole, some = (open_split("Set", "test", tmp_path / name) for name in ("all", "some"))
    np.testing.assert_array_equal(some.points(), whole.points()[:, :20])
    np.testing.assert_array_equal(some.visibility(), whole.visibility()[:, :20])
    np.testing.assert_array_equal(some.views(0), whole.views(0))  # they come from all points
    with pytest.raises(ConfigError, match="--points is 65, and the clouds have 64"):
        run(packed, tmp_path / "more", "--points", "65")


def test_normals_of_the_file_are_taken_and_turned(tmp_path):
    run(make_modelnet_normal(tmp_path / "set"), tmp_path, "--up", "y", "--points", "32")
    split = open_split("Set", "train", tmp_path)
    cloud = draw_cloud(4, 100)  # night_stand_0001
    directions = cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
    order = farthest_point_order(normalise_cloud(np.round(cloud, 6).astype(float), "y"))[:32]
    expected = np.stack([directions[:, 0], -directions[:, 2], directions[:, 1]], axis=1)[order]
    row = split.ids.index("night_stand/train/night_stand_0001")
    np.testing.assert_allclose(split.normals()[row], expected, atol=2e-3)


def test_a_cloud_of_the_release_with_fewer_lines_is_left_out(tmp_path):
    source = make_modelnet_normal(tmp_path / "set")
    cut = next(source.glob("*/night_stand_0001.txt"))
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:60]))
    assert "skipped 1" in run(source, tmp_path, "--points", "32")
    (skipped,) = report_of(tmp_path)["skipped"]
    assert skipped["file"].endswith("night_stand_0001.txt")
    assert skipped["reason"].startswith("60 points, where most files have 100")


def test_every_layout_takes_the_same_way(tmp_path):
    make_scanobjectnn(tmp_path / "main_split", "augmentedrot_scale75")
    line = run(tmp_path / "main_split", tmp_path / "a", "--variant", "augmentedrot_scale75")
    assert line.startswith("prepared 8 of 8 clouds of 64 points")
    assert "nothing of the classes bin, box, cabinet, desk" in line
    assert open_split("Set", "test", tmp_path / "a").labels.tolist() == [0, 4, 9, 14]
    source = make_clouds(tmp_path / "clouds", ".npy", plain=True)
    line = run(source, tmp_path / "b", "--points", "64", "--test-fraction", "0.5")
    assert line.startswith("prepared 8 of 8 clouds of 64 points") and "(4 train / 4 test)" in line


def test_shapenet_part_comes_with_official_parts_and_label_images(tmp_path):
    source = make_shapenet_part(tmp_path / "set", ("Chair", "Table"))
    line = run(source, tmp_path, "--up", "y", "--recipe", "dual16", "--points", "100")
    assert "(6 train / 2 test), skipped 0, 8 with fewer points repeat some" in line
    assert "nothing of the classes Airplane, Bag" in line
    split = open_split("Set", "train", tmp_path)
    assert split.class_names == list(PART_COUNTS)
    numbers = split.part_numbers.to_global(split.parts(), split.labels)
    assert np.unique(numbers[split.labels == 4]).tolist() == [12, 13, 14, 15]
    assert np.unique(numbers[split.labels == 15]).tolist() == [47, 48, 49]
    points = split.points()
    np.testing.assert_array_equal(points[:, 80:], points[:, :20])
    np.testing.assert_array_equal(split.parts()[:, 80:], split.parts()[:, :20])
    np.testing.assert_array_equal(farthest_point_order(points[0]), np.arange(100))
    expected = normalise_cloud(draw_cloud(0, 80), "y")
    nearest = np.linalg.norm(points[0][:, None] - expected, axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(split.parts()[0], nearest % 4)
    images, views = split.part_images(0), split.views(0)
    assert images.shape == (16, 16, 16)
    np.testing.assert_array_equal(images == BACKGROUND, views == 255)
    assert set(np.unique(images)) == {0, 1, 2, 3, BACKGROUND}


def test_settings_of_clouds_are_stored_and_compared(packed, tmp_path):
    run(packed, tmp_path)
    settings = report_of(tmp_path)["settings"]
    assert settings["visibility"] == DEFAULT_VISIBILITY
    assert settings["renderer"].startswith("splats ")
    assert (settings["layout"], settings["points"]) == ("modelnet40-h5", 64)
    assert run(packed, tmp_path).startswith("already prepared 9 of 9 clouds of 64 points")
    other = {"hpr": "splat", "splat": "hpr"}[DEFAULT_VISIBILITY]
    with pytest.raises(ConfigError, match=f"visibility '{DEFAULT_VISIBILITY}'"):
        run(packed, tmp_path, "--visibility", other)
    with pytest.raises(ConfigError, match="hpr_radius"):
        run(packed, tmp_path, "--visibility", "hpr", "--hpr-radius", "0.5")
    with pytest.raises(ConfigError, match="other settings"):
        run(make_meshes(tmp_path / "meshes"), tmp_path)


def test_views_of_clouds_and_of_meshes_have_different_recipes():
    cloud, mesh = CloudSettings().views_recipe(), ShapeSettings().views_recipe()
    assert hash_recipe(cloud) != hash_recipe(mesh)
    # sets of meshes made by earlier versions, and the banks for them, stay good
    assert hash_recipe(mesh) == "6efe4846b0ff"
    assert set(vars(ShapeSettings())) == {"up", "recipe", "image_size", "shading", "points", "seed"}


def test_visibility_and_shading_are_chosen(packed, tmp_path):
    words = {
        "splat": ["--visibility", "splat"],
        "hpr": ["--visibility", "hpr"],
        "wide": ["--visibility", "hpr", "--hpr-radius", "20"],
        "depth": ["--visibility", "splat", "--shading", "depth"],
        "normal": ["--visibility", "splat", "--shading", "normal"],
    }
    splits = {}
    for name, more in words.items():
        run(packed, tmp_path / name, *more)
        splits[name] = open_split("Set", "train", tmp_path / name)
    seen = {name: unpack_visibility(s.visibility(), 12) for name, s in splits.items()}
    assert (seen["splat"] == seen["depth"]).all()
    assert (seen["splat"] == seen["hpr"]).mean() > 0.8
    assert seen["wide"].mean() > seen["hpr"].mean()
    assert splits["normal"].views(0).shape == (12, 16, 16, 3)
    assert (splits["splat"].views(0) != splits["depth"].views(0)).any()


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_or_interruptions(packed, tmp_path, monkeypatch):
    run(packed, tmp_path / "one")
    run(packed, tmp_path / "two", "--workers", "2")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data.prepare.__main__.pack", die)
        with pytest.raises(KeyboardInterrupt):
            run(packed, tmp_path / "killed", "--visibility", "splat")
        with pytest.raises(KeyboardInterrupt):
            run(packed, tmp_path / "killed")
    run(packed, tmp_path / "killed")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "killed")


def test_unreadable_text_clouds_are_skipped_with_their_line(tmp_path):
    source = make_modelnet_normal(tmp_path / "set")
    (source / "cone" / "cone_0001.txt").write_text("1,2,3,0,0,1\n1,2,3\n")
    (source / "cone" / "cone_0003.txt").write_text("1,2,3,0,0,1\n" * 10)
    (source / "night_stand" / "night_stand_0001.txt").unlink()
    (source / "night_stand" / "night_stand_0002.txt").write_text("1,2,3,0,0,1\n" * 40)
    line = run(source, tmp_path, "--points", "32")
    assert "prepared 4 of 8 clouds" in line and "skipped 4" in line
    reasons = {entry["file"]: entry["reason"] for entry in report_of(tmp_path)["skipped"]}
    assert reasons == {
        "cone/cone_0001.txt": "line 2 has 3 columns, expected 6",
        "cone/cone_0003.txt": "10 points, expected 32 or more",
        "night_stand/night_stand_0001.txt": (
            "no such file, and modelnet40_train.txt entry 3 names it"
        ),
        "night_stand/night_stand_0002.txt": "all points are in one place",
    }


@pytest.mark.parametrize("workers", ["1", slow_if(True, "2")])
def test_wrong_part_labels_end_the_preparation(tmp_path, workers):
    source = make_shapenet_part(tmp_path / "set", ("Chair",))
    path = next(source.glob("*/s1.txt"))
    table = np.loadtxt(path)
    table[40, 6] = 16
    write_table(path, table)
    with pytest.raises(DataError, match="s1.txt: point 41 has part label 16, expected 12 to 15"):
        run(source, tmp_path, "--points", "32", "--workers", workers)
    assert not any((tmp_path / "Set" / name).exists() for name in FILES)
    table[40, 6] = 15  # of the same length: what was left behind must not count
    write_table(path, table)
    assert run(source, tmp_path, "--points", "32").startswith("prepared 4 of 4")


def test_nothing_is_begun_for_a_bad_packed_file(tmp_path):
    folder = make_modelnet_h5(tmp_path / "set")
    with h5py.File(folder / "ply_data_test0.h5", "r+") as file:
        file["data"][3, 2, 1] = np.nan
    with pytest.raises(DataError, match="ply_data_test0.h5 row 3"):
        run(folder, tmp_path)
    assert not (tmp_path / "Set").exists()
    write_packed(folder / "ply_data_test0.h5", [0, 1, 1, 0], seed=2)
    assert run(folder, tmp_path).startswith("prepared 9 of 9")


@pytest.mark.parametrize(
    "words",
    [
        ["--visibility", "splat", "--hpr-radius", "0.1"],
        ["--visibility", "hpr", "--hpr-radius", "-1"],
        ["--visibility", "hpr", "--hpr-radius", "nan"],
        ["--variant", "augmentedrot_scale75"],
        ["--split-file", "split.json"],
    ],
)
def test_wrong_options_for_clouds(packed, tmp_path, words):
    with pytest.raises(ConfigError):
        run(packed, tmp_path, *words)
    assert not (tmp_path / "Set" / "report.json").exists()


def test_wrong_options_for_meshes(tmp_path):
    with pytest.raises(ConfigError, match="meshes are seen by rays"):
        run(make_meshes(tmp_path / "meshes"), tmp_path, "--visibility", "hpr")
    with pytest.raises(ConfigError, match="of a SOURCE"):
        parse(["--shapes", "--layout", "meshes"])
    with pytest.raises(ConfigError, match="meshes are seen by rays"):
        prepare(parse(["--shapes", "--root", str(tmp_path), "--visibility", "hpr"]))
    assert not (tmp_path / "Shapes").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "xz", "zip"])
def test_the_script_takes_folders_and_archives(packed, tmp_path, kind):
    given = tmp_path / "modelnet40_ply_hdf5_2048"
    shutil.copytree(packed, given)
    if kind != "folder":
        form = {"xz": "xztar", "zip": "zip"}[kind]
        given = Path(shutil.make_archive(str(given), form, tmp_path, given.name))
    (tmp_path / "temporary").mkdir()

    def run_script(*words, **environment):
        return subprocess.run(
            ["bash", "scripts/prepare_modelnet40.sh", *map(str, words)],
            env=os.environ | {"PYTHON": sys.executable, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    temporary = {"TMPDIR": str(tmp_path / "temporary"), "IMAGE_SIZE": "24"}
    done = run_script(given, "--root", tmp_path, "--workers", "1", **temporary)
    assert done.returncode == 0, done.stderr
    assert "prepared 9 of 9 clouds of 64 points" in done.stdout
    split = open_split("ModelNet40", "train", tmp_path)
    assert (split.image_size, split.source) == (24, "modelnet40_ply_hdf5_2048")
    assert split.settings["up"] == "y", "the axis of the files of this name"
    assert not list((tmp_path / "temporary").iterdir())
    assert run_script("nowhere.zip").returncode == 2
    (tmp_path / "other").mkdir()
    assert "UP=z" in run_script(tmp_path / "other").stderr
    done = run_script(tmp_path / "other", UP="z")
    assert (done.returncode, "no shape_names.txt" in done.stderr) == (3, True)


def test_a_class_without_a_usable_cloud_is_named_with_its_first_file(tmp_path):
    source = make_clouds(tmp_path / "set")
    for path in source.glob("ball/*/*.xyz"):
        path.write_text("1 2\n")
    message = "class ball: none of its 4 shapes .* ball/test/ball1.xyz: line 1 has 2 columns"
    with pytest.raises(DataError, match=message):
        run(source, tmp_path, "--points", "32")
    assert not any((tmp_path / "Set" / name).exists() for name in FILES)


def test_a_radius_is_refused_for_meshes_even_if_it_is_0(tmp_path):
    with pytest.raises(ConfigError, match="meshes are seen by rays"):
        run(make_meshes(tmp_path / "meshes"), tmp_path, "--hpr-radius", "0")
