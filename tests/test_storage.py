"""The prepared split: what is written is read, from any process; damage is named."""

import multiprocessing
import os
import pickle
from dataclasses import replace

import h5py
import numpy as np
import pytest

from data.prepare.writer import ShapeRecord, SplitHeader, encode_png, write_split
from data.rendering.cameras import (
    describe_recipe,
    find_rig,
    hash_recipe,
    make_cameras,
    pack_visibility,
    unpack_visibility,
)
from data.storage import UNLABELLED, PreparedSplit, open_split
from utils.errors import DataError

POINTS, SIZE = 40, 16
PART_NAMES = {"chair": ["leg", "seat", "back", "arm", "wheel"], "table": ["top", "leg", "x", "y"]}


def make_records(count=5, views=12, channels=(), parts=True):
    generator = np.random.default_rng(0)
    records, images = [], []
    for number in range(count):
        stack = generator.integers(0, 256, (views, SIZE, SIZE, *channels), dtype=np.uint8)
        images.append(stack)
        records.append(
            ShapeRecord(
                id=f"class/train/shape_{number}",
                label=number % 2,
                points=generator.normal(size=(POINTS, 3)).astype(np.float32),
                normals=generator.normal(size=(POINTS, 3)).astype(np.float16),
                visibility=pack_visibility(generator.random((POINTS, views)) < 0.5),
                images=[encode_png(image) for image in stack],
                parts=np.full(POINTS, number, np.uint8) if parts and number else None,
            )
        )
    return records, images


def make_header(records, recipe_name="ring12", parts=True):
    recipe = describe_recipe(recipe_name, SIZE, "grey", 1)
    cameras = make_cameras(find_rig(recipe_name), SIZE)
    return SplitHeader(
        name="Tiny",
        split="train",
        source="meshes",
        class_names=["chair", "table"],
        part_names=PART_NAMES if parts else {},
        recipe=recipe,
        recipe_hash=hash_recipe(recipe),
        settings={"points": POINTS},
        intrinsics=cameras.intrinsics,
        extrinsics=cameras.extrinsics,
        num_shapes=len(records),
        num_points=POINTS,
        image_bytes=sum(len(stream) for record in records for stream in record.images),
    )


@pytest.fixture
def tiny(tmp_path):
    records, images = make_records()
    path = tmp_path / "Tiny" / "train.h5"
    write_split(path, make_header(records), records)
    return path, records, images


@pytest.mark.parametrize("views", [1, 8, 12, 16])
def test_visibility_survives_packing(views):
    visible = np.random.default_rng(views).random((7, 5, views)) < 0.5
    packed = pack_visibility(visible)
    assert packed.shape == (7, 5, -(-views // 8))
    np.testing.assert_array_equal(unpack_visibility(packed, views), visible)


def test_view_0_is_the_lowest_bit():
    assert pack_visibility(np.array([[1, 0, 1, 0, 0, 0, 0, 0, 1]], bool)).tolist() == [[5, 1]]


def test_what_is_written_is_read(tiny):
    path, records, images = tiny
    split = PreparedSplit(path)
    assert (split.name, split.split, len(split)) == ("Tiny", "train", 5)
    assert split.ids == [record.id for record in records]
    assert split.labels.tolist() == [0, 1, 0, 1, 0]
    assert split.labels.dtype == np.int64
    assert split.class_names == ["chair", "table"]
    assert split.part_names == PART_NAMES
    assert (split.num_views, split.num_points, split.image_size) == (12, POINTS, SIZE)
    assert split.recipe["name"] == "ring12"
    assert split.recipe_hash == hash_recipe(split.recipe)
    np.testing.assert_array_equal(split.points(), [record.points for record in records])
    np.testing.assert_array_equal(split.normals(), [record.normals for record in records])
    np.testing.assert_array_equal(split.visibility(), [record.visibility for record in records])
    assert split.parts()[:, 0].tolist() == [UNLABELLED, 1, 2, 3, 4]
    np.testing.assert_array_equal(split.extrinsics, make_cameras(find_rig("ring12"), 8).extrinsics)
    for index in (4, 0, 2):
        np.testing.assert_array_equal(split.views(index), images[index])


def test_colour_views_and_sets_without_parts(tmp_path):
    records, images = make_records(views=16, channels=(3,), parts=False)
    write_split(tmp_path / "a.h5", make_header(records, "dual16", parts=False), records)
    split = PreparedSplit(tmp_path / "a.h5")
    assert split.num_views == 16
    np.testing.assert_array_equal(split.views(1), images[1])
    with pytest.raises(DataError, match="no part labels"):
        split.parts()


def test_equal_content_gives_equal_bytes_and_other_content_another_hash(tiny, tmp_path):
    path, records, _ = tiny
    write_split(tmp_path / "again.h5", make_header(records), records)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()
    hashes = {PreparedSplit(path).data_hash}
    moved = records[3].points.copy()
    moved[7, 1] += 1
    hidden = records[3].visibility ^ 1
    for change in ({"points": moved}, {"visibility": hidden}, {"label": 0}, {"id": "class/z"}):
        changed = sorted(
            [*records[:3], replace(records[3], **change), records[4]], key=lambda r: r.id
        )
        write_split(tmp_path / "again.h5", make_header(changed), changed)
        hashes.add(PreparedSplit(tmp_path / "again.h5").data_hash)
    assert len(hashes) == 5


def test_records_that_break_their_promise_leave_no_file(tmp_path):
    records, _ = make_records()
    header = make_header(records)
    for wrong in (records[:4], records[::-1], [*records, records[0]]):
        with pytest.raises((ValueError, IndexError, TypeError)):
            write_split(tmp_path / "wrong.h5", header, wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_by_pickle_reads_on(tiny):
    path, records, images = tiny
    split = PreparedSplit(path)
    split.views(0)  # opens the file
    copy = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(copy.views(3), images[3])


def view_sums(split, results):
    sums = [int(split.views(index).sum()) for index in range(len(split))]
    results.put((sums, split._owner == os.getpid()))


def test_forked_processes_read_on_from_an_open_split(tiny):
    path, _, images = tiny
    split = PreparedSplit(path)
    split.views(0)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=view_sums, args=(split, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    expected = [int(stack.sum()) for stack in images]
    assert [results.get(timeout=20) for _ in workers] == [(expected, True)] * 3
    for worker in workers:
        worker.join()


def test_a_missing_set_says_what_to_run_and_what_there_is(tiny, tmp_path):
    with pytest.raises(DataError, match=r"there are Tiny.*python -m data.prepare"):
        open_split("Huge", "train", tmp_path)
    assert open_split("Tiny", "train", tmp_path).ids
    assert open_split(tmp_path / "Tiny", "train").ids
    with pytest.raises(DataError, match="test.h5"):
        open_split("Tiny", "test", tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 3000, -1])
def test_a_truncated_file_is_named(tiny, kept):
    path, _, _ = tiny
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="train.h5 is damaged"):
        PreparedSplit(path)


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.attrs.__setitem__("format", "other"), "no split"),
        (lambda f: f.attrs.__setitem__("version", 99), "version 99, expected"),
        (lambda f: f.__delitem__("visibility"), "lacks visibility"),
        (lambda f: f.attrs.__delitem__("recipe"), "damaged"),
        (lambda f: f.attrs.__setitem__("recipe", "{"), "damaged"),
        (lambda f: f["labels"].__setitem__(0, 2), "labels outside"),
        (lambda f: (f.__delitem__("points"), f.create_dataset("points", (4,), "f4")), "damaged"),
        (lambda f: (f.__delitem__("points"), f.create_group("points")), "damaged"),
        (lambda f: (f.__delitem__("offsets"), f.create_dataset("offsets", (0,), "i8")), "damaged"),
        (lambda f: (f.__delitem__("ids"), f.create_dataset("ids", data=[1, 2])), "damaged"),
        (lambda f: f["offsets"].__setitem__(-1, 1), "images is"),
        (
            lambda f: (f.__delitem__("points"), f.create_dataset("points", (4, 40, 3), "f4")),
            "points",
        ),
    ],
)
def test_inconsistent_files_are_refused(tiny, change, message):
    path, _, _ = tiny
    edit(path, change)
    with pytest.raises(DataError, match=message):
        PreparedSplit(path)


def test_damaged_views_name_the_shape(tiny):
    path, records, _ = tiny
    edit(path, lambda f: f["images"].__setitem__(slice(0, 50), 0))
    with pytest.raises(DataError, match=records[0].id):
        PreparedSplit(path).views(0)


def stored_as(name, kind):
    def change(file):
        array = file[name][()].astype(kind)
        del file[name]
        file[name] = array

    return change


@pytest.mark.parametrize(
    ("name", "kind"),
    [("points", "f8"), ("labels", "f4"), ("parts", "f4"), ("visibility", "f4"), ("images", "i8")],
)
def test_arrays_of_another_type_are_refused(tiny, name, kind):
    path, _, _ = tiny
    edit(path, stored_as(name, kind))
    with pytest.raises(DataError, match=f"{name} is {np.dtype(kind)}, expected"):
        PreparedSplit(path)


def test_values_that_are_not_finite_are_refused(tiny):
    path, records, _ = tiny
    edit(path, lambda f: f["points"].__setitem__((2, 5, 1), np.nan))
    with pytest.raises(DataError, match=f"{records[2].id} has points that are not finite"):
        PreparedSplit(path).points()
    edit(path, lambda f: f["extrinsics"].__setitem__((0, 0, 0), np.inf))
    with pytest.raises(DataError, match="cameras that are not finite"):
        PreparedSplit(path)
