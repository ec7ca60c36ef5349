"""Part labels from the files beside the meshes to the batches of the networks."""

import contextlib
import json
import os
import subprocess
import sys
import tarfile

import h5py
import numpy as np
import pytest
import torch
import trimesh
from conftest import ROOT, slow_if

from data.batches import training_batches
from data.datasets import ShapeSet
from data.geometry.meshes import label_file, load_mesh
from data.parts import BACKGROUND, UNLABELLED, PartNumbers
from data.prepare.__main__ import parse, prepare
from data.prepare.writer import encode_png
from data.rendering.cameras import project, unpack_visibility
from data.show import draw_shape
from data.sources.folders import find_files
from data.storage import PreparedSplit, open_split
from data.subsets import Subset
from data.training import TrainingBatches
from utils.errors import ConfigError, DataError
from utils.settings import DataSettings, PointAugmentation, PointDataSettings, ViewAugmentation

CPU = torch.device("cpu")
STILL = PointAugmentation()
SIDE = 96  # of the views of shapes, in pixels
SMALL = ["--points", "256", "--image-size", "48", "--workers", "1", "--recipe", "dual16"]


def view_set(subset, **settings):
    """Views with their label images."""
    return ShapeSet(subset, {"views", "part_images"}, DataSettings(name="Set", **settings), CPU)


def write_text_labels(mesh, faces_of):
    """``x_labels.txt`` beside ``x.off`` from name -> 0-based faces."""
    rows = [f"{name}\n{' '.join(str(face + 1) for face in faces)}" for name, faces in faces_of]
    mesh.with_name(f"{mesh.stem}_labels.txt").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The embedded shapes with parts: two and one of each class."""
    root = tmp_path_factory.mktemp("parts")
    arguments = [
        "--shapes",
        "--root",
        str(root),
        "--shapes-train",
        "2",
        "--shapes-test",
        "1",
        *SMALL,
    ]
    prepare(parse([*arguments, "--image-size", str(SIDE)]))
    return open_split("Shapes", "train", root)


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    """Balls whose upper half is ``cap``, named first or last; a ball and boxes are unlabelled."""
    folder = tmp_path_factory.mktemp("balls")
    for number in range(4):
        path = folder / "meshes" / "ball" / "train" / f"ball_{number}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        ball = trimesh.creation.icosphere(3)
        ball.vertices *= [1, 1, 0.7 + 0.1 * number]
        ball.export(path)
        above = load_mesh(path).vertices[load_mesh(path).faces].mean(axis=1)[:, 2] > 0
        halves = [("cap", np.flatnonzero(above)), ("base", np.flatnonzero(~above))]
        if number < 3:
            write_text_labels(path, halves[:: -1 if number else 1])
    for name, split in (("ball", "test"), ("ant", "train"), ("ant", "test")):
        path = folder / "meshes" / name / split / f"{name}_9.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        trimesh.creation.box().export(path)
    prepare(parse([str(folder / "meshes"), "--name", "Balls", "--root", str(folder), *SMALL]))
    return open_split("Balls", "train", folder)


def test_numbers_over_all_classes():
    numbers = PartNumbers(["ant", "chair", "cup"], {"chair": ["leg", "seat"], "cup": ["body"]})
    assert numbers.names == ["chair/leg", "chair/seat", "cup/body"]
    assert (numbers.count, numbers.ranges) == (3, [(0, 0), (0, 2), (2, 3)])
    stored = np.array([[0, 1, UNLABELLED, BACKGROUND], [0, 1, UNLABELLED, BACKGROUND]], np.uint8)
    found = numbers.to_global(stored, np.array([1, 2]))
    assert found.dtype == np.int64
    assert found.tolist() == [[0, 1, -1, 3], [2, -1, -1, 3]]
    images = np.broadcast_to(stored[:, None, :], (2, 5, 4))
    np.testing.assert_array_equal(numbers.to_global(images, np.array([1, 2]))[:, 3], found)


def test_labels_are_read_from_text_and_fans_keep_the_part_of_their_polygon(tmp_path):
    path = tmp_path / "a.off"
    path.write_text("OFF\n5 3 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n0 0 1\n4 0 1 2 3\n3 0 1 4\n3 0 3 4\n")
    (tmp_path / "a_labels.txt").write_text("roof top\r\n2 \r\n\r\nfloor\r\n3 1\r\n")
    mesh = load_mesh(path)
    assert mesh.part_names == ("roof top", "floor")
    assert mesh.face_parts.tolist() == [1, 1, 0, 1]  # the square gave two triangles
    assert mesh.face_parts.dtype == np.uint8
    np.savez(tmp_path / "a.parts.npz", face_parts=[0, 0, 0], part_names=["all"])
    assert label_file(path).name == "a.parts.npz"
    assert load_mesh(path).part_names == ("all",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leg\n1 2\nseat\n3 4 13", "line 4: face 13, and the mesh has faces 1 to 12"),
        ("leg\n0 2\n", "line 2: face 0"),
        ("leg\n1 2\nseat\n3 2", "line 4: face 2 of seat belongs to leg already"),
        ("leg\n1 2 1\n", "line 2: face 1 stands there twice"),
        ("leg\n1 2.5\n", "line 2: expected face numbers, found '1 2.5'"),
        ("leg\n1 99999999999999999999\n", "line 2: expected face numbers"),
        ("leg\n1 2\n\nseat\n", "line 4: no line of faces after it"),
        ("1 2\nleg\n", "line 1: numbers, expected the name of a part"),
        ("leg\n1 2 3\n", "9 of 12 faces have no part, such as face 4"),
        ("", "12 of 12 faces"),
        ("\x80\n1", "unreadable"),
    ],
)
def test_bad_labels_are_named_with_their_line(tmp_path, text, message):
    trimesh.creation.box().export(tmp_path / "box.off")
    (tmp_path / "box_labels.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message) as error:
        load_mesh(tmp_path / "box.off")
    assert "box_labels.txt" in str(error.value)


def test_a_mesh_with_bad_labels_is_skipped_and_reported(tmp_path):
    for number in range(4):
        path = tmp_path / "in" / "box" / ("test" if number == 3 else "train") / f"{number}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        trimesh.creation.box().export(path)
        write_text_labels(path, [("all", range(11 if number == 2 else 12))])
    prepare(parse([str(tmp_path / "in"), "--name", "Set", "--root", str(tmp_path), *SMALL]))
    report = json.loads((tmp_path / "Set" / "report.json").read_text())
    (skipped,) = report["skipped"]
    assert skipped["file"] == "box/train/2.off"
    assert skipped["reason"].startswith("part labels 2_labels.txt: 1 of 12 faces have no part")


def test_label_images_agree_with_the_labels_of_visible_points(shapes):
    """Acceptance: 99 % of the visible points whose 3 x 3 pixels are of one part show that part."""
    agreeing, clear = 0, 0
    parts = shapes.parts()
    seen = unpack_visibility(shapes.visibility(), shapes.num_views)
    for index in range(len(shapes)):
        pixels, _ = project(shapes.points()[index], shapes.intrinsics, shapes.extrinsics)
        view, point = np.nonzero(seen[index].T)
        column, row = np.floor(pixels[view, point]).astype(int).T
        images = np.pad(shapes.part_images(index), ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = np.stack(
            [images[view, row + i, column + j] for i in range(3) for j in range(3)], axis=1
        )
        inner = (around == around[:, :1]).all(axis=1)
        agreeing += (around[inner, 0] == parts[index, point[inner]]).sum()
        clear += inner.sum()
    assert clear > 20_000
    assert agreeing / clear > 0.995, agreeing / clear


def test_the_background_of_labels_is_the_background_of_views(shapes):
    for index in (0, 7, 20):
        labels, views = shapes.part_images(index), shapes.views(index)
        np.testing.assert_array_equal(labels == BACKGROUND, views == 255)
        names = shapes.part_names[shapes.class_names[shapes.labels[index]]]
        assert labels[labels != BACKGROUND].max() < len(names)
    chosen = [5, 0]
    np.testing.assert_array_equal(shapes.part_images(3, chosen), shapes.part_images(3)[chosen])
    np.testing.assert_array_equal(shapes.views(3, chosen), shapes.views(3)[chosen])


def test_label_images_take_the_numbers_of_the_class(balls):
    assert balls.part_names == {"ball": ["cap", "base"]}
    assert (balls.num_parts, balls.part_ranges) == (2, [(0, 0), (0, 2)])
    first = balls.ids.index("ball/train/ball_0")
    for index in range(first, first + 3):  # ball_0 lists the parts in another order than the others
        image = balls.part_images(index)[0]  # from above: the cap lies over the base
        rows = [np.flatnonzero((image == part).any(axis=1)).mean() for part in (0, 1)]
        assert rows[0] < rows[1]
        assert set(np.unique(image)) == {0, 1, BACKGROUND}
        height, parts = balls.points()[index][:, 2], balls.parts()[index]
        assert (parts[height > 0.15] == 0).all() and (parts[height < -0.15] == 1).all()
    for index in (0, first + 3):  # a class and a mesh without labels
        assert (balls.part_images(index) == UNLABELLED).all()
        assert (balls.global_parts()[index] == -1).all()


def test_parts_are_part_of_what_the_hash_says(balls, tmp_path):
    source = tmp_path / "meshes"
    for path in (balls.path.parent.parent / "meshes").rglob("*.*"):
        (source / path.relative_to(path.parents[2])).parent.mkdir(parents=True, exist_ok=True)
        (source / path.relative_to(path.parents[2])).write_bytes(path.read_bytes())
    arguments = [str(source), "--name", "Balls", "--root", str(tmp_path), *SMALL, "--overwrite"]
    prepare(parse(arguments))
    again = open_split("Balls", "train", tmp_path)
    assert again.path.read_bytes() == balls.path.read_bytes()
    labels = source / "ball" / "train" / "ball_1_labels.txt"
    rows = labels.read_text().splitlines()
    labels.write_text(
        "\n".join([rows[2], rows[1], rows[0], rows[3]])
    )  # each name to the other half
    prepare(parse(arguments))
    changed = open_split("Balls", "train", tmp_path)
    assert changed.part_names == balls.part_names
    assert changed.data_hash != balls.data_hash
    for path in source.rglob("*_labels.txt"):
        path.write_text(path.read_text().replace("cap", "lid"))
    prepare(parse(arguments))
    renamed = open_split("Balls", "train", tmp_path)
    assert renamed.part_names == {"ball": ["lid", "base"]}
    assert renamed.data_hash not in (changed.data_hash, balls.data_hash)


def edited(split, tmp_path, change):
    path = tmp_path / "edited.h5"
    path.write_bytes(split.path.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_sets_of_before_label_images_stay_readable(shapes, tmp_path):
    def strip(file):
        del file["part_images"], file["part_offsets"]

    split = PreparedSplit(edited(shapes, tmp_path, strip))
    np.testing.assert_array_equal(split.parts(), shapes.parts())
    with pytest.raises(DataError, match="no label images.*--overwrite"):
        split.part_images(0)
    subset = Subset(split, np.arange(4))
    with pytest.raises(DataError, match="no label images"):
        ShapeSet(subset, {"part_images"}, DataSettings(name="Set"), CPU)
    draw_shape(split, 0, 0)


def test_damaged_part_labels_are_named(shapes, tmp_path):
    path = edited(shapes, tmp_path, lambda file: file["parts"].__setitem__((3, 0), 200))
    with pytest.raises(DataError, match=f"{shapes.ids[3]} has part numbers"):
        PreparedSplit(path).global_parts()
    path = edited(shapes, tmp_path, lambda file: file["parts"].__setitem__((5, 9), BACKGROUND))
    with pytest.raises(DataError, match=f"{shapes.ids[5]} has part numbers"):
        PreparedSplit(path).parts()

    def paint(file):
        first, second = file["part_offsets"][:2]
        rest = file["part_images"][second:]
        stream = np.frombuffer(encode_png(np.full((SIDE, SIDE), 77, np.uint8)), np.uint8)
        file["part_images"].resize((len(stream) + len(rest),))
        file["part_images"][...] = np.concatenate([stream, rest])
        file["part_offsets"][1:] += len(stream) - (second - first)

    path = edited(shapes, tmp_path, paint)
    with pytest.raises(DataError, match=f"label images of {shapes.ids[0]} have part numbers"):
        PreparedSplit(path).part_images(0)
    assert np.array_equal(PreparedSplit(path).part_images(1), shapes.part_images(1))
    path = edited(shapes, tmp_path, lambda file: file["part_images"].resize((100,)))
    with pytest.raises(DataError, match="part_images is"):
        PreparedSplit(path)
    path = edited(shapes, tmp_path, lambda file: file.__delitem__("part_offsets"))
    with pytest.raises(DataError, match="damaged"):
        PreparedSplit(path)


def test_clouds_come_with_global_parts(shapes):
    whole = Subset(shapes, np.arange(len(shapes)))
    clouds = ShapeSet(whole, {"points", "parts"}, PointDataSettings(name="Set", points=128), CPU)
    batch = clouds.take(torch.arange(len(shapes)))
    begin, end = np.array(shapes.part_ranges)[shapes.labels].T
    parts = batch["parts"].numpy()
    assert parts.dtype == np.int64
    np.testing.assert_array_equal(parts - begin[:, None], shapes.parts()[:, :128])
    assert (parts < end[:, None]).all()
    assert shapes.num_parts == shapes.part_ranges[-1][1] == len(shapes.part_numbers.names)
    # Points that are dropped become the first point, part and all.
    dropout = PointAugmentation(dropout=0.9)
    batch = next(TrainingBatches(clouds, 8, 1, dropout, ViewAugmentation())(0))
    dropped = (batch["points"] == batch["points"][:, :1]).all(dim=2)
    assert dropped.sum() > 8 * 20
    assert (batch["parts"] == batch["parts"][:, :1])[dropped].all()


def test_label_images_are_resized_and_moved_with_their_views(shapes):
    pictures = view_set(Subset(shapes, np.arange(len(shapes))))
    plain = next(pictures.evaluation(4))
    assert plain["part_images"].dtype == torch.int64
    background = plain["part_images"] == shapes.num_parts
    assert torch.equal(background, (plain["views"] == 255).all(dim=2))
    first = plain["part_images"][0]
    assert set(first.unique().tolist()) <= {*range(*shapes.part_ranges[0]), shapes.num_parts}

    smaller = next(view_set(Subset(shapes, np.arange(4)), size=SIDE // 2).evaluation(4))
    assert smaller["part_images"].shape == (4, 16, SIDE // 2, SIDE // 2)
    assert (smaller["part_images"] == plain["part_images"][..., 1::2, 1::2]).float().mean() > 0.99

    moves = ViewAugmentation(flip=True, scale=(0.8, 1.25), shift=0.1)
    batch = next(TrainingBatches(pictures, 8, 3, STILL, moves)(0))
    seen = batch["part_images"] != shapes.num_parts
    assert ((batch["views"][:, :, 0] < 0.97) == seen).float().mean() > 0.97
    assert not torch.equal(seen, batch["views"][:, :, 0].flip(-1) < 0.97)
    still = next(TrainingBatches(pictures, 8, 3, STILL, ViewAugmentation())(0))
    flipped = next(TrainingBatches(pictures, 8, 3, STILL, ViewAugmentation(flip=True))(0))
    turned = 0
    for before, after in zip(still["part_images"], flipped["part_images"], strict=True):
        mirrored = torch.equal(after, before.flip(-1))
        assert mirrored or torch.equal(after, before)
        turned += mirrored
    assert 0 < turned < 8


def test_unlabelled_pixels_are_ignored_and_classes_without_parts_too(balls):
    batch = next(view_set(Subset(balls, np.arange(5))).evaluation(5))
    assert (batch["part_images"][[0, 4]] == -1).all()
    assert set(batch["part_images"][1].unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("workers", "resident"),
    [(0, True), slow_if(True, 1, True), (0, False), slow_if(True, 1, False)],
)
def test_random_views_are_views_of_their_shape(shapes, workers, resident):
    subset = Subset(shapes, np.arange(len(shapes)))
    views = view_set(subset, workers=workers, cache_on_device=resident, views=3)
    draw = TrainingBatches(views, 8, 5, STILL, ViewAugmentation())
    epochs = [list(draw(epoch)) for epoch in (0, 0, 1)]
    used = set()
    for batch in epochs[0]:
        assert batch["views"].shape == (8, 3, 1, SIDE, SIDE)
        for row, index in enumerate(batch["index"].tolist()):
            stored, labels = shapes.views(index), shapes.part_images(index)
            found = []
            expected = shapes.part_numbers.to_global(labels[None], shapes.labels[[index]])[0]
            for view in range(3):
                same = (stored == batch["views"][row, view].numpy()).all(axis=(1, 2))
                place = int(same.argmax())
                assert same[place]
                assert np.array_equal(batch["part_images"][row, view], expected[place])
                found.append(place)
            used |= set(found)
    assert len(used) == shapes.num_views
    for first, second in zip(epochs[0], epochs[1], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    # The same shape, in another epoch, shows other views.
    earlier = {int(i): v for b in epochs[0] for i, v in zip(b["index"], b["views"], strict=True)}
    later = {int(i): v for b in epochs[2] for i, v in zip(b["index"], b["views"], strict=True)}
    assert sum(not torch.equal(earlier[i], later[i]) for i in earlier) > 0.9 * len(earlier)
    with pytest.raises(ConfigError, match=r"data.views=17.*16 views"):
        view_set(subset, views=17)


def test_balanced_classes_come_evenly(shapes):
    labels = np.repeat([0, 1, 2], [20, 5, 2])
    drawn = training_batches(np.arange(1, 27), 8, 3, 0, labels).flatten().numpy()
    assert len(drawn) == 24
    assert np.bincount(labels[drawn]).tolist() == [8, 8, 8]
    assert np.bincount(drawn, minlength=27)[[0, 25, 26]].tolist() == [0, 4, 4]
    assert np.bincount(drawn)[20:25].min() >= 1  # all of a class before any of it again
    assert np.bincount(drawn)[:20].max() == 1
    assert (np.diff(labels[drawn]) != 0).sum() > 6  # mixed
    other = training_batches(np.arange(1, 27), 8, 3, 1, labels).flatten().numpy()
    assert not np.array_equal(other, drawn)

    uneven = Subset(shapes, np.array([0, 1, 2, 4, 6]))  # of classes 0, 0, 1, 2, 3
    views = view_set(uneven, views=1, class_balanced=True)
    draw = TrainingBatches(views, 4, 0, STILL, ViewAugmentation())
    for epoch in range(4):
        (batch,) = draw(epoch)
        assert sorted(batch["label"].tolist()) == [0, 1, 2, 3]
        assert torch.equal(batch["views"], next(draw(epoch))["views"])


def make_plain(folder, ids):
    for name in ids:
        path = folder / f"{name}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_the_tracked_split_is_the_seeded_draw(tmp_path):
    content = json.loads((ROOT / "data" / "labeledpsb_split.json").read_text())
    ids = content["train"] + content["test"]
    assert (len(content["train"]), len(content["test"]), len(set(ids))) == (228, 152, 380)
    source = make_plain(tmp_path, ids)
    drawn = find_files(source, 0.4, 0)
    listed = find_files(source, 0.2, 7, ROOT / "data" / "labeledpsb_split.json")
    assert drawn.shapes == listed.shapes
    for name in drawn.class_names:
        mine = [shape.split for shape in drawn.shapes if shape.class_name == name]
        assert (mine.count("train"), mine.count("test")) == (12, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": ["a/1"], "test": ["a/2"]}', "does not say where a/3"),
        ('{"train": ["a/1", "a/4"], "test": ["a/2", "a/3"]}', "names 1 meshes that .* such as a/4"),
        ('{"train": ["a/1", "a/3"], "test": ["a/2", "a/3"]}', "names a/3 2 times"),
        ('{"train": ["a/1"]}', "no split file"),
        ('{"train": ["a/1"], "test": [["a/2"]]}', "no split file"),
        ('{"train": ["a/1"], "test": ["a/2"], "val": ["a/3"]}', "no split file"),
        ("[]", "no split file"),
        ('{"train": ', "no split file"),
        (None, "no split file .*split.json"),
    ],
)
def test_a_split_file_fits_or_is_refused(tmp_path, content, message):
    source = make_plain(tmp_path / "meshes", ["a/1", "a/2", "a/3"])
    if content is not None:
        (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match=message):
        find_files(source, 0.2, 0, tmp_path / "split.json")


def test_a_split_file_is_part_of_the_settings(tmp_path):
    source = tmp_path / "meshes"
    for number in range(4):
        (source / "box").mkdir(parents=True, exist_ok=True)
        trimesh.creation.box().export(source / "box" / f"{number}.off")
    split_file = tmp_path / "split.json"
    split_file.write_text('{"train": ["box/0", "box/3"], "test": ["box/1", "box/2"]}')
    arguments = [str(source), "--name", "Set", "--root", str(tmp_path), *SMALL]
    listed = [*arguments, "--split-file", str(split_file)]
    assert prepare(parse(listed)).startswith("prepared 4")
    assert open_split("Set", "train", tmp_path).ids == ["box/0", "box/3"]
    assert prepare(parse(listed)).startswith("already prepared")
    split_file.write_text('{"train": ["box/0", "box/2"], "test": ["box/1", "box/3"]}')
    with pytest.raises(ConfigError, match="split_file"):
        prepare(parse(listed))
    with pytest.raises(ConfigError, match="test_fraction"):
        prepare(parse(arguments))
    with pytest.raises(ConfigError, match="--split-file"):
        parse(["--shapes", "--split-file", str(split_file)])
    for number in range(4):
        (source / "box" / ("test" if number else "train")).mkdir(exist_ok=True)
        place = "test" if number else "train"
        (source / "box" / f"{number}.off").rename(source / "box" / place / f"{number}.off")
    with pytest.raises(DataError, match="train and test already"):
        prepare(parse([*listed, "--overwrite"]))


@pytest.mark.slow
def test_a_shape_with_parts_is_drawn_with_them(balls, tmp_path):
    for index in (0, 1):
        figure = draw_shape(balls, index, 2)
        if index == 1:  # with all there is
            figure.savefig(tmp_path / "sheet.png", dpi=20)
        texts = [
            text.get_text()
            for sub in figure.subfigs
            for axes in sub.axes
            for text in (axes.get_legend().get_texts() if axes.get_legend() else [])
        ]
        assert texts == ([] if index == 0 else ["cap", "base"])


@pytest.mark.slow
def test_the_labelled_archive_is_unpacked_and_cleared(tmp_path):
    (tmp_path / "labeleddb" / "LabeledDB_new" / "Chair").mkdir(parents=True)
    with tarfile.open(tmp_path / "LabeledPSB.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "labeleddb", "labeleddb")
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {
        "PYTHON": f"{sys.executable} {ROOT / 'tests' / 'parse_line.py'}",
        "TMPDIR": str(tmp_path / "temporary"),
    }
    for name, code in (("LabeledPSB.tar.xz", 0), ("nothing.tar.xz", 2)):
        done = subprocess.run(
            ["bash", "scripts/prepare_labeledpsb.sh", str(tmp_path / name)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert ("parsed data.prepare" in done.stdout) == (code == 0)
        assert done.stderr.startswith("usage:") == (code == 2)
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("step", [97, pytest.param(3, marks=pytest.mark.stress)])
def test_packed_labels_that_are_damaged_or_ambiguous_are_refused(tmp_path, step):
    trimesh.creation.box().export(tmp_path / "box.off")
    path = tmp_path / "box.parts.npz"
    parts = np.random.default_rng(0).integers(0, 2, 12)
    np.savez_compressed(path, face_parts=parts, part_names=["a", "b"])
    whole = path.read_bytes()
    for place in range(0, len(whole), step):  # some bytes change nothing that is read
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with contextlib.suppress(DataError):
            load_mesh(tmp_path / "box.off")
    np.savez(path, face_parts=parts, part_names=["a", "a"])
    with pytest.raises(DataError, match="names a part twice"):
        load_mesh(tmp_path / "box.off")
