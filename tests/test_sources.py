"""Point-cloud sources: every layout is recognised and read, and bad input is named."""

import h5py
import numpy as np
import pytest
import trimesh
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

from data.sources.cloud_files import SourceError, load_cloud, read_table
from data.sources.packed import check_packed
from data.sources.registry import LAYOUTS, find_source
from data.sources.scanobjectnn import CLASSES as SCANOBJECTNN_CLASSES
from data.sources.shapenetpart import PART_COUNTS
from utils.errors import ConfigError, DataError

# The official numbering of the parts of ShapeNetPart, written out.
OFFICIAL = """
    Airplane 0-3 Bag 4-5 Cap 6-7 Car 8-11 Chair 12-15 Earphone 16-18 Guitar 19-21 Knife 22-23
    Lamp 24-27 Laptop 28-29 Motorbike 30-35 Mug 36-37 Pistol 38-40 Rocket 41-43 Skateboard 44-46
    Table 47-49
"""


def find(folder, layout="auto", variant="", split_file=None):
    return find_source(folder, layout, variant, 0.25, 0, split_file)


def test_packed_modelnet_is_recognised_and_read(tmp_path):
    layout, source = find(make_modelnet_h5(tmp_path / "set", points=50))
    assert layout == "modelnet40-h5"
    assert source.class_names == ["cone", "vase"]
    assert source.num_points == 50
    splits = [shape.split for shape in source.shapes]
    assert (splits.count("train"), splits.count("test")) == (5, 4)
    assert [shape.id for shape in source.shapes] == sorted(shape.id for shape in source.shapes)
    by_id = {shape.id: shape for shape in source.shapes}
    shape = by_id["vase/train/shape_02"]  # third row of the first file
    assert (shape.class_name, shape.row, shape.path.name) == ("vase", 2, "ply_data_train0.h5")
    cloud = load_cloud(shape)
    np.testing.assert_array_equal(cloud.points, draw_cloud(2, 50))
    assert cloud.normals is None and cloud.parts is None


def test_packed_shapes_without_id_lists_are_named_by_row_and_normals_are_kept(tmp_path):
    folder = make_modelnet_h5(tmp_path / "set", ids=False)
    normals = np.ones((2, 64, 3), np.float32)
    write_packed(folder / "ply_data_train1.h5", [0, 0], seed=7, normal=normals)
    _, source = find(folder)
    shape = next(s for s in source.shapes if s.id == "cone/train/ply_data_train1_00001")
    np.testing.assert_array_equal(load_cloud(shape).normals, normals[1])
    before = source.fingerprint()
    write_packed(folder / "ply_data_train1.h5", [0, 0], seed=8, normal=normals)
    assert find(folder)[1].fingerprint() != before, "other content, same sizes and names"


def test_classes_without_shapes_keep_their_numbers(tmp_path):
    folder = make_modelnet_h5(tmp_path / "set")
    (folder / "shape_names.txt").write_text("cone\nvase\nxbox\n")
    assert find(folder)[1].class_names == ["cone", "vase", "xbox"]


def test_modelnet_with_normals(tmp_path):
    folder = make_modelnet_normal(tmp_path / "set")
    layout, source = find(folder)
    assert (layout, source.class_names) == ("modelnet40-normal", ["cone", "night_stand"])
    shape = next(s for s in source.shapes if s.id == "night_stand/test/night_stand_0002")
    cloud = load_cloud(shape)
    np.testing.assert_allclose(cloud.points, draw_cloud(5, 100), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-5)
    _, ten = find(folder, variant="modelnet10")
    assert {shape.class_name for shape in ten.shapes} == {"night_stand"}
    (folder / "cone" / "cone_0003.txt").unlink()
    assert find(folder)[1].skipped == [
        ("cone/cone_0003.txt", "no such file, and modelnet40_train.txt entry 2 names it")
    ]
    with pytest.raises(ConfigError, match="modelnet40, modelnet10"):
        find(folder, variant="modelnet20")


def test_scanobjectnn_has_its_classes_and_variants(tmp_path):
    folder = make_scanobjectnn(tmp_path / "main_split")
    make_scanobjectnn(folder, "augmentedrot_scale75")
    layout, source = find(folder)
    assert (layout, source.class_names) == ("scanobjectnn", SCANOBJECTNN_CLASSES)
    assert [SCANOBJECTNN_CLASSES[label] for label in (0, 4, 9, 10, 14)] == [
        *("bag", "chair", "table", "bed", "toilet")
    ]
    assert [s.class_name for s in source.shapes if s.split == "train"] == [
        *("bag", "chair", "table", "toilet")
    ]
    _, other = find(folder, variant="augmentedrot_scale75")
    assert {shape.path.stem for shape in other.shapes} == {
        "training_objectdataset_augmentedrot_scale75",
        "test_objectdataset_augmentedrot_scale75",
    }
    with pytest.raises(DataError, match="augmentedrot_scale75"):
        find(folder, variant="augmented25rot")
    with pytest.raises(DataError, match="several sets: give .*main_split"):
        find(tmp_path)


def test_shapenet_part_has_the_official_numbers(tmp_path):
    layout, source = find(make_shapenet_part(tmp_path / "set", tuple(PART_COUNTS)))
    assert layout == "shapenet-part"
    begin, found = 0, []
    for name in source.class_names:
        end = begin + len(source.part_names[name])
        found += [name, f"{begin}-{end - 1}"]
        begin = end
    assert found == OFFICIAL.split()
    assert begin == 50
    for shape in source.shapes:
        parts = load_cloud(shape).parts
        np.testing.assert_array_equal(parts, np.arange(80) % PART_COUNTS[shape.class_name])
    splits = [shape.split for shape in source.shapes]
    assert (splits.count("train"), splits.count("test")) == (3 * 16, 16)


def test_a_subset_of_shapenet_part_keeps_the_official_numbers(tmp_path):
    _, source = find(make_shapenet_part(tmp_path / "set", ("Chair", "Bag")))
    assert source.class_names == list(PART_COUNTS)
    assert {shape.class_name for shape in source.shapes} == {"Chair", "Bag"}
    assert source.skipped == []


@pytest.mark.parametrize("suffix", [".xyz", ".txt", ".npy", ".ply"])
@pytest.mark.parametrize("plain", [False, True])
def test_folders_of_clouds(tmp_path, suffix, plain):
    layout, source = find(make_clouds(tmp_path / "set", suffix, plain))
    assert (layout, source.is_split) == ("clouds", not plain)
    assert source.class_names == ["ball", "egg"]
    assert [shape.split for shape in source.shapes].count("test") == (2 if plain else 4)
    by_id = {shape.id: shape for shape in source.shapes}
    cloud = load_cloud(by_id["egg/egg2" if plain else "egg/train/egg2"])
    np.testing.assert_allclose(cloud.points, draw_cloud(2), atol=1e-6)


def test_a_ply_with_faces_is_a_mesh(tmp_path):
    folder = make_clouds(tmp_path / "set", ".ply")
    assert find(folder)[0] == "clouds"
    trimesh.creation.box().export(folder / "ball" / "train" / "box.ply")
    assert find(folder)[0] == "meshes"
    _, source = find(folder, "clouds")
    with pytest.raises(DataError, match="a mesh"):
        load_cloud(next(s for s in source.shapes if s.id.endswith("box")))
    meshes = make_clouds(tmp_path / "meshes", ".ply")
    trimesh.creation.box().export(meshes / "egg" / "train" / "box.off")
    assert find(meshes)[0] == "meshes", "text files lie beside meshes"


def spoil(name, change):
    """A change of one packed file: ``change`` gets its open HDF5 file."""

    def spoil_folder(folder):
        with h5py.File(folder / name, "r+") as file:
            change(file)

    return spoil_folder


def replace(file, name, array):
    del file[name]
    file[name] = array


def set_value(file, name, place, value):
    file[name][place] = value


def cut(name, keep):
    def spoil_folder(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])

    return spoil_folder


def change_text(name, text):
    return lambda folder: (folder / name).write_text(text)


TRAIN = "ply_data_train0.h5"
BAD_PACKED = {
    "truncated": (cut(TRAIN, 0.6), rf"{TRAIN}.*truncated"),
    "empty": (cut(TRAIN, 0), rf"{TRAIN}.*truncated or no HDF5"),
    "gone": (lambda folder: (folder / TRAIN).unlink(), rf"no file .*{TRAIN}"),
    "no data": (spoil(TRAIN, lambda f: f.pop("data")), rf"{TRAIN} has no array 'data', only label"),
    "no label": (spoil(TRAIN, lambda f: f.pop("label")), "no array 'label', only data"),
    "whole numbers": (
        spoil(TRAIN, lambda f: replace(f, "data", np.zeros((3, 64, 3), int))),
        rf"{TRAIN}: data is int64 \(3, 64, 3\), expected floats",
    ),
    "text labels": (
        spoil(TRAIN, lambda f: replace(f, "label", np.array([b"a", b"b", b"c"]))),
        rf"{TRAIN}: label is",
    ),
    "flat": (
        spoil(TRAIN, lambda f: replace(f, "data", np.zeros((3, 64), np.float32))),
        r"data is float32 \(3, 64\)",
    ),
    "fewer labels": (
        spoil(TRAIN, lambda f: replace(f, "label", np.zeros(2, np.uint8))),
        r"data is float32 \(3, 64, 3\), expected floats \(2, N, 3\)",
    ),
    "label too large": (
        spoil(TRAIN, lambda f: set_value(f, "label", 1, 2)),
        rf"{TRAIN} row 1: label 2, expected 0 to 1",
    ),
    "label below 0": (
        spoil(TRAIN, lambda f: replace(f, "label", np.array([0, 1, -1]))),
        rf"{TRAIN} row 2: label -1",
    ),
    "label between": (
        spoil(TRAIN, lambda f: replace(f, "label", np.array([0, 0.5, np.nan]))),
        rf"{TRAIN} row 1: label 0.5",
    ),
    "nan": (
        spoil(TRAIN, lambda f: set_value(f, "data", (2, 5, 1), np.nan)),
        rf"{TRAIN} row 2: a value that is not finite",
    ),
    "normals in a folder": (
        spoil(TRAIN, lambda f: f.create_group("normal")),
        f"{TRAIN} has no array 'normal'",
    ),
    "nothing in data": (
        spoil(TRAIN, lambda f: replace(f, "data", h5py.Empty("f4"))),
        "data is float32 None, expected floats",
    ),
    "infinite": (
        spoil(TRAIN, lambda f: set_value(f, "data", (0, 63, 2), np.inf)),
        "row 0: a value",
    ),
    "one place": (spoil(TRAIN, lambda f: set_value(f, "data", 1, 0.5)), "row 1: all points"),
    "few points": (
        spoil(TRAIN, lambda f: replace(f, "data", np.ones((3, 8, 3), np.float32))),
        "8 points per row",
    ),
    "mixed point counts": (
        lambda folder: write_packed(folder / "ply_data_test0.h5", [0, 1, 1, 0], points=70),
        "mixes numbers of points: 64 a row in ply_data_train0.h5, 70 a row in ply_data_test0.h5",
    ),
    "short id list": (
        change_text("ply_data_train_0_id2file.json", '["a"]'),
        "id2file.json has 1 names for the 3 rows",
    ),
    "no id list": (
        change_text("ply_data_train_0_id2file.json", "{"),
        "train_0_id2file.json",
    ),
    "listed twice": (
        change_text("train_files.txt", f"{TRAIN}\n{TRAIN}\n"),
        f"{TRAIN} row 0 is named vase/train/shape_00, as {TRAIN} row 0 is",
    ),
    "empty list": (
        change_text("test_files.txt", "\n"),
        "test_files.txt is",
    ),
}


@pytest.mark.parametrize("kind", BAD_PACKED)
def test_a_bad_packed_file_is_named_with_its_row(tmp_path, kind):
    folder = make_modelnet_h5(tmp_path / "set")
    change, message = BAD_PACKED[kind]
    change(folder)
    with pytest.raises(DataError, match=message):
        find(folder)


def test_bad_rows_are_found_beyond_the_first_slab(tmp_path):
    clouds = write_packed(tmp_path / "many.h5", [0] * 300, points=32)
    clouds[290, 3, 0] = np.nan
    with h5py.File(tmp_path / "many.h5", "r+") as file:
        file["data"][...] = clouds
    with pytest.raises(DataError, match="row 290"):
        check_packed(tmp_path / "many.h5", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n4 5 6 7\n", "line 2 has 4 columns, expected 3"),
        ("1 2 3\n\n4 5\n", "line 3 has 2 columns"),
        ("1 2 3\n4 five 6\n", "line 2 holds a word"),
        ("1 2 3\n\n4 nan 6\n", "line 3 holds a value that is not finite"),
        ("\n\n", "no points"),
    ],
)
def test_bad_text_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "a.txt", 3)


def test_separators_of_text(tmp_path):
    (tmp_path / "a.txt").write_text("1,2, 3\r\n\r\n4;5\t6e-1\n")
    np.testing.assert_array_equal(read_table(tmp_path / "a.txt", 3), [[1, 2, 3], [4, 5, 0.6]])


@pytest.mark.parametrize("label", [11, 16, 12.5, -1])
def test_part_labels_outside_the_category_stop_everything(tmp_path, label):
    folder = make_shapenet_part(tmp_path / "set", ("Chair",))
    path = next(folder.glob("*/s0.txt"))
    table = np.loadtxt(path)
    table[7, 6] = label
    write_table(path, table)
    _, source = find(folder)
    shape = next(shape for shape in source.shapes if shape.path == path)
    with pytest.raises(SourceError, match=rf"s0.txt: point 8 .* {label:g}, .* 12 to 15"):
        load_cloud(shape)


LIST = "train_test_split/shuffled_train_file_list.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / LIST).unlink(), "shuffled_train_file_list.json"),
        (change_text(LIST, '["shape_data/00000004'), "shuffled_train_file_list.json"),
        (change_text(LIST, '{"a": 1}'), "no list of names"),
        (change_text(LIST, '["shape_data/99/s0"]'), "entry 0: 'shape_data/99/s0', expected"),
        (
            change_text(LIST, '["shape_data/00000004/s3"]'),
            "as shuffled_train_file_list",
        ),
        (change_text(LIST, "[]"), None),
        (
            change_text("synsetoffset2category.txt", "Chair 00000004\nCactus 7"),
            "line 2: 'Cactus",
        ),
    ],
)
def test_damaged_lists_are_named(tmp_path, change, message):
    folder = make_shapenet_part(tmp_path / "set", ("Chair",))
    change(folder)
    if message is None:  # the validation shapes are left to train on
        assert [s.split for s in find(folder)[1].shapes] == ["test", "train"]
        return
    with pytest.raises(DataError, match=message):
        find(folder)


def test_what_does_not_go_together_is_refused(tmp_path):
    folder = make_modelnet_h5(tmp_path / "set")
    with pytest.raises(ConfigError, match="no variants"):
        find(folder, variant="x")
    with pytest.raises(ConfigError, match="split of its own"):
        find(folder, split_file=tmp_path / "split.json")
    with pytest.raises(DataError, match="no folder"):
        find(tmp_path / "nowhere")
    for layout in LAYOUTS:  # none of them finds anything in a folder that holds nothing
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError):
            find(tmp_path / "empty", layout)
