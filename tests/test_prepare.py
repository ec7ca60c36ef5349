"""The whole way from meshes to a prepared set: layouts, bad input, resumption, equal bytes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from helpers import FILES, contents, make_meshes

from data import show
from data.geometry.sampling import farthest_point_order
from data.prepare.__main__ import parse, prepare
from data.rendering.cameras import unpack_visibility
from data.show import draw_shape, find_shape
from data.sources.folders import find_files
from data.storage import PreparedSplit, open_split
from utils.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--points", "64", "--image-size", "16", "--workers", "1"]


def run(source, root, *more):
    return prepare(parse([str(source), "--name", "Set", "--root", str(root), *SMALL, *more]))


@pytest.fixture
def source(tmp_path):
    return make_meshes(tmp_path / "meshes")


def test_a_set_holds_what_its_meshes_say(source, tmp_path):
    line = run(source, tmp_path)
    folder = tmp_path / "Set"
    assert line == (
        f"prepared 12 of 12 meshes into {folder} (6 train / 6 test), skipped 0: see "
        f"{folder}/report.json"
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    split = open_split("Set", "train", tmp_path)
    assert split.ids[0] == "ball/train/ball_0"
    assert split.ids == sorted(split.ids)
    assert split.class_names == ["ball", "box"]
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.views(0).shape == (12, 16, 16)
    points = split.points()
    assert points.shape == (6, 64, 3)
    assert 0.8 < np.linalg.norm(points, axis=-1).max() <= 1 + 1e-6
    for cloud in points:  # stored in farthest-point order: sampling from point 0 finds 0, 1, 2, ...
        assert farthest_point_order(cloud)[0] == 0
        np.testing.assert_array_equal(farthest_point_order(cloud), np.arange(64))
    # A convex body: a point is seen exactly where its outer normal looks at the camera.
    normals = split.normals()[0].astype(np.float64)
    normals *= np.sign((normals * points[0]).sum(axis=1, keepdims=True))
    rotation, shift = split.extrinsics[:, :3, :3], split.extrinsics[:, :3, 3]
    centres = -np.einsum("vji,vj->vi", rotation, shift)
    facing = ((centres[None] - points[0][:, None]) * normals[:, None]).sum(axis=-1)
    seen = unpack_visibility(split.visibility()[0], 12)
    clear = np.abs(facing) > 0.01
    np.testing.assert_array_equal(seen[clear], (facing > 0)[clear])


@pytest.mark.parametrize(("up", "long_axis"), [("z", 2), ("y", 1), ("x", 0)])
def test_up_turns_the_points(source, tmp_path, up, long_axis):
    for path in source.rglob("*.off"):
        trimesh.creation.cone(0.2, 2.0).export(path)  # its axis is the z of the file
    run(source, tmp_path, "--up", up)
    points = open_split("Set", "train", tmp_path).points()[0]
    assert np.argmax(np.ptp(points, axis=0)) == long_axis


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(source, tmp_path):
    run(source, tmp_path / "a")
    run(source, tmp_path / "b", "--workers", "2")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_shape_does_not_depend_on_its_neighbours(source, tmp_path):
    run(source, tmp_path / "a")
    (source / "ball" / "train" / "ball_0.off").unlink()
    run(source, tmp_path / "b")
    first, second = (open_split("Set", "train", tmp_path / root) for root in "ab")
    assert second.ids == first.ids[1:]
    np.testing.assert_array_equal(second.points(), first.points()[1:])
    np.testing.assert_array_equal(second.views(0), first.views(1))
    assert first.data_hash != second.data_hash


def test_another_seed_gives_other_points_of_the_same_surface(source, tmp_path):
    run(source, tmp_path / "a")
    run(source, tmp_path / "b", "--seed", "1")
    first, second = (open_split("Set", "train", tmp_path / root) for root in "ab")
    assert not np.isin(first.points()[0], second.points()[0]).any()
    np.testing.assert_array_equal(first.views(0), second.views(0))


def test_a_finished_set_is_left_alone_and_other_settings_are_refused(source, tmp_path):
    run(source, tmp_path)
    stamps = [(tmp_path / "Set" / name).stat().st_mtime_ns for name in FILES]
    assert run(source, tmp_path).startswith("already prepared 12 of 12 meshes")
    with pytest.raises(ConfigError, match=r"points 64 \(now 32\).*--overwrite"):
        run(source, tmp_path, "--points", "32")
    with pytest.raises(ConfigError, match="recipe 'ring12'"):
        run(source, tmp_path, "--recipe", "dual16")
    assert stamps == [(tmp_path / "Set" / name).stat().st_mtime_ns for name in FILES]
    run(source, tmp_path, "--points", "32", "--overwrite")
    assert open_split("Set", "test", tmp_path).num_points == 32
    with pytest.raises(ConfigError, match="meshes"):
        make_meshes(source, per_split=4)
        run(source, tmp_path, "--points", "32")


def test_splits_of_unknown_making_are_not_overwritten(source, tmp_path):
    run(source, tmp_path)
    (tmp_path / "Set" / "report.json").unlink()
    with pytest.raises(ConfigError, match="no report.json"):
        run(source, tmp_path)
    assert run(source, tmp_path, "--overwrite").startswith("prepared 12")


def test_a_damaged_finished_set_is_named(source, tmp_path):
    run(source, tmp_path)
    path = tmp_path / "Set" / "test.h5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="test.h5 is damaged.*--overwrite"):
        run(source, tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="lost its test.h5.*--overwrite"):
        run(source, tmp_path)
    for content in ("[]", "null", '{"settings": 3}', "{"):
        (tmp_path / "Set" / "report.json").write_text(content)
        with pytest.raises(DataError, match="report.json is damaged.*--overwrite"):
            run(source, tmp_path)


def test_a_file_in_the_place_of_the_folder_is_left_alone(source, tmp_path):
    (tmp_path / "Set").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        run(source, tmp_path)
    assert (tmp_path / "Set").read_text() == "mine"


def test_unusable_meshes_are_listed_and_skipped(source, tmp_path):
    train = source / "ball" / "train"
    (train / "empty.off").write_text("")
    (train / "flat.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n")
    (train / "nan.off").write_text("OFF\n3 1 0\n0 0 0\n1 nan 0\n2 1 0\n3 0 1 2\n")
    (train / "letter.obj").write_text("dear reader")
    (train / "half.off").write_bytes((train / "ball_0.off").read_bytes()[:200])
    trimesh.creation.box().export(train / "ball_0.ply")  # the id of ball_0.off
    (train / "notes.txt").write_text("not a candidate")
    line = run(source, tmp_path)
    assert "prepared 12 of 18 meshes" in line
    assert "skipped 6" in line
    report = json.loads((tmp_path / "Set" / "report.json").read_text())
    reasons = {entry["file"]: entry["reason"] for entry in report["skipped"]}
    assert sorted(Path(name).name for name in reasons) == sorted(
        ["empty.off", "flat.off", "nan.off", "letter.obj", "half.off", "ball_0.ply"]
    )
    assert reasons["ball/train/flat.off"] == "no area"
    assert reasons["ball/train/half.off"].startswith("truncated")
    assert reasons["ball/train/ball_0.ply"] == "same id as ball_0.off"
    assert report["prepared"] == {"train": 6, "test": 6}


def test_a_plain_folder_is_split_by_class_and_seed(tmp_path):
    source = make_meshes(tmp_path / "meshes", per_split=5, plain=True)

    def drawn(seed):
        found = find_files(source, 0.3, seed)
        assert not found.is_split
        return [mesh.id for mesh in found.shapes if mesh.split == "test"]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert [name.split("/")[0] for name in drawn(0)] == ["ball"] * 3 + ["box"] * 3
    assert "(14 train / 6 test)" in run(source, tmp_path, "--test-fraction", "0.3")
    with pytest.raises(ConfigError, match="test_fraction 0.3"):
        run(source, tmp_path, "--test-fraction", "0.4")


def test_every_class_keeps_a_mesh_on_either_side(tmp_path):
    source = make_meshes(tmp_path / "meshes", per_split=1, plain=True)
    for fraction in (0.01, 0.99):
        splits = [mesh.split for mesh in find_files(source, fraction, 0).shapes]
        assert sorted(splits) == ["test", "test", "train", "train"]


def break_layout(source, kind):
    if kind == "missing":
        return source / "nowhere"
    if kind == "no classes":
        (source / "empty").mkdir()
        return source / "empty"
    if kind == "empty class":
        (source / "cup" / "train").mkdir(parents=True)
    if kind == "mixed":
        trimesh.creation.box().export(source / "box" / "loose.off")
    if kind == "stranger":
        (source / "box" / "validation").mkdir()
    if kind == "no test":
        for path in source.glob("*/test/*"):
            path.unlink()
    if kind == "unusable class":
        for path in source.glob("box/*/*"):
            path.write_text("OFF\n0 0 0\n")
    if kind == "unusable test":
        for path in source.glob("*/test/*"):
            path.write_text("OFF\n0 0 0\n")
    return source


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no folder"),
        ("no classes", "no class folders"),
        ("empty class", "class folder .*cup holds no mesh"),
        ("mixed", "mixes two layouts"),
        ("stranger", "'validation'"),
        ("no test", "no meshes for test"),
        ("unusable class", "class box: none of its 6 shapes can be used.*no faces"),
        ("unusable test", "no usable shape for test"),
    ],
)
def test_sources_that_give_no_set_are_refused(source, tmp_path, kind, message):
    with pytest.raises(DataError, match=message):
        run(break_layout(source, kind), tmp_path)
    assert not (tmp_path / "Set" / "report.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["meshes", "--shapes"],
        ["meshes"],
        ["meshes", "--name", "a/b"],
        ["meshes", "--name", ".."],
        ["meshes", "--name", "A", "--recipe", "ring13"],
        ["meshes", "--name", "A", "--points", "0"],
        ["meshes", "--name", "A", "--test-fraction", "1"],
        ["--shapes", "--up", "y"],
        ["--shapes", "--shapes-train", "5000"],
    ],
)
def test_wrong_usage_is_refused_before_any_work(arguments):
    with pytest.raises(ConfigError):
        parse(arguments)


def test_parts_are_numbered_alike_within_a_class(source, tmp_path):
    for number, names in ((0, ["cap", "base"]), (2, ["base", "cap"])):
        path = source / "ball" / "train" / f"ball_{number}.off"
        mesh = trimesh.load(path, process=False)
        above = mesh.triangles_center[:, 2] > 0
        labels = np.where(above, names.index("cap"), names.index("base")).astype(np.uint8)
        np.savez(path.with_suffix(".parts.npz"), face_parts=labels, part_names=names)
    run(source, tmp_path)
    split = open_split("Set", "train", tmp_path)
    assert split.part_names == {"ball": ["cap", "base"]}
    height, parts = split.points()[:2, :, 2], split.parts()
    assert (parts[:2][height > 0.2] == 0).all()  # nearer the equator faces reach across it
    assert (parts[:2][height < -0.2] == 1).all()
    assert (parts[2:] == 255).all()


def test_the_embedded_shapes_take_the_same_way(tmp_path):
    arguments = ["--shapes", "--root", str(tmp_path), "--shapes-train", "1", "--shapes-test", "1"]
    assert prepare(parse(arguments + SMALL)).startswith("prepared")
    split = open_split("Shapes", "train", tmp_path)
    assert set(split.part_names) == set(split.class_names)
    assert (split.parts() != 255).all()
    assert sorted(path.name for path in (tmp_path / "Shapes").iterdir()) == sorted(FILES)
    assert prepare(parse(arguments + SMALL)).startswith("already prepared")


def command(source, root, workers):
    arguments = [str(source), "--name", "Set", "--root", str(root), *SMALL, "--workers", workers]
    return [sys.executable, "-m", "data.prepare", *arguments]


def running_children(pid):
    """Process numbers of the running children of ``pid``; zombies do not count."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
            if int(parent) == pid and state != "Z":
                children.append(int(path.parent.name))
    return children


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("per_split", "kills"),
    [
        (8, [("2", 12)]),
        pytest.param(30, [("1", 5), ("2", 40), ("1", 80)], marks=pytest.mark.stress),
    ],
    ids=["once", "often"],
)
def test_a_killed_preparation_goes_on_to_the_same_bytes(tmp_path, per_split, kills):
    """``kills``: with how many workers, and after how many records."""
    source = make_meshes(tmp_path / "meshes", per_split=per_split)
    run(source, tmp_path / "whole")
    root = tmp_path / "killed"
    records = root / "Set" / ".work" / "records"
    orphans = []
    for workers, at_least in kills:
        process = subprocess.Popen(
            command(source, root, workers), cwd=ROOT, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            if records.is_dir() and len(list(records.glob("*/[!.]*.npz"))) >= at_least:
                orphans += running_children(process.pid)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        assert not (root / "Set" / "report.json").exists()
    subprocess.run(command(source, root, "1"), cwd=ROOT, check=True, capture_output=True)
    assert contents(root) == contents(tmp_path / "whole")
    assert sorted(path.name for path in (root / "Set").iterdir()) == sorted(FILES)
    end = time.monotonic() + 10
    while any(map(is_running, orphans)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in orphans if is_running(pid)], "workers outlived the command"


@pytest.mark.parametrize("moment", ["train.h5", "test.h5", "report.json"])
def test_a_kill_while_the_files_are_written_is_made_good(source, tmp_path, monkeypatch, moment):
    run(source, tmp_path / "whole")
    replace = os.replace

    def die(temporary, path):
        if Path(path).name == moment:
            raise KeyboardInterrupt  # nothing in between tidies up for it
        replace(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "killed")
    (tmp_path / "killed" / "Set" / ".train.1.tmp.h5").write_text("left by a kill")
    run(source, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(list((tmp_path / "killed" / "Set").iterdir())) == 3


def test_an_interrupted_preparation_leaves_nothing_to_one_with_other_settings(
    source, tmp_path, monkeypatch
):
    def die(*_):
        raise KeyboardInterrupt

    more = ["--points", "32", "--image-size", "8", "--seed", "1", "--up", "y", "--shading", "depth"]
    run(source, tmp_path / "whole", *more)
    with monkeypatch.context() as patch:
        patch.setattr("data.prepare.__main__.pack", die)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "changed")
    run(source, tmp_path / "changed", *more)
    assert contents(tmp_path / "changed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_the_command_ends_with_the_documented_codes(source, tmp_path):
    done = subprocess.run(command(source, tmp_path, "1"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("prepared 12 of 12")
    (source / "cup").mkdir()
    failed = subprocess.run(
        command(source, tmp_path, "1"), cwd=ROOT, capture_output=True, text=True
    )
    assert failed.returncode == 3
    assert failed.stderr.startswith("error: class folder")
    assert len(failed.stderr.splitlines()) == 1


def test_a_shape_is_shown_and_an_unknown_one_gets_a_suggestion(source, tmp_path):
    run(source, tmp_path)
    split, index = find_shape("Set", "box/test/box_3", tmp_path)
    assert (split.split, split.ids[index]) == ("test", "box/test/box_3")
    with pytest.raises(ConfigError, match="0 to 11"):
        draw_shape(split, index, 12)
    with pytest.raises(DataError, match="did you mean box/test/box_3"):
        find_shape("Set", "box_3", tmp_path)
    assert isinstance(split, PreparedSplit)
    arguments = ["Set", "box/test/box_3", "--root", str(tmp_path), "--view", "11", "--output"]
    show.main([*arguments, str(tmp_path / "by_command.png")])
    assert (tmp_path / "by_command.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "by_command.png").stat().st_size > 10_000
    for name in ("sheet", "sheet.docx"):
        with pytest.raises(ConfigError, match="is no picture"):
            show.main([*arguments, str(tmp_path / name)])
