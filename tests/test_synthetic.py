"""The embedded shapes: reproducible, well formed, fully labelled, varied, and whole objects."""

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from data.synthetic.primitives import Mesh, box, ellipsoid, face_areas, frustum, lathe, tube, vessel
from data.synthetic.shapes import CLASSES, PARTS, generate, make_shape, shape_rng
from utils.errors import ConfigError, DataError

NUMBERS = range(1, 41)


def volume(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.einsum("fi,fi->", a, np.cross(b, c)) / 6


def some(class_name, count=8):
    return [make_shape(class_name, shape_rng(3, class_name, number + 1)) for number in range(count)]


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (box(2, 3, 4), 24.0),
        (frustum(1, 1, 2), 2 * 12 * np.sin(np.pi / 12)),  # 24 corners
        (lathe([(0, 0), (1, 0), (0, 3)]), 12 * np.sin(np.pi / 12)),
        (tube([(0, 0, 0), (0, 0, 5)], np.sqrt(0.5), 4), 5.0),
        (vessel(np.array([(1.0, 0.0), (1.0, 1.0)]), 0.5), 12 * np.sin(np.pi / 12) * 0.875),
    ],
)
def test_a_block_is_closed_wound_outwards_and_has_its_volume(mesh, expected):
    assert volume(mesh) == pytest.approx(expected)
    edges = np.concatenate([mesh.faces[:, [i, (i + 1) % 3]] for i in range(3)])
    welded = np.unique(mesh.vertices.round(9), axis=0, return_inverse=True)[1].reshape(-1)
    directed = {tuple(edge) for edge in welded[edges]}
    assert all((end, start) in directed for start, end in directed)


def test_turning_is_counter_clockwise_seen_from_the_tip():
    mesh = Mesh(np.eye(3), np.array([[0, 1, 2]]))
    assert np.allclose(mesh.turned("z", 90).vertices[0], (0, 1, 0))
    assert np.allclose(mesh.turned("x", 90).vertices[1], (0, 0, 1))
    assert np.allclose(mesh.turned("y", 90).vertices[2], (1, 0, 0))


def test_an_ellipsoid_has_its_diameters():
    assert np.allclose(np.ptp(ellipsoid(1, 2, 3).vertices, axis=0), (1, 2, 3))


def test_there_are_enough_classes_and_each_has_distinct_parts():
    assert len(CLASSES) >= 12
    assert all(len(PARTS[name]) == len(set(PARTS[name])) >= 2 for name in CLASSES)


@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.stress)])
@pytest.mark.parametrize("class_name", CLASSES)
def test_shapes_are_well_formed(class_name, count):
    for shape in some(class_name, count):
        assert shape.vertices.dtype == np.float64 and shape.faces.dtype == np.int64
        assert shape.face_parts.dtype == np.uint8
        assert len(shape.face_parts) == len(shape.faces)
        assert 40 <= len(shape.faces) <= 3000
        assert np.isfinite(shape.vertices).all()
        assert np.array_equal(np.unique(shape.faces), np.arange(len(shape.vertices)))
        rounded = Mesh(shape.vertices.round(6), shape.faces)  # as the file has them
        assert face_areas(rounded).min() > 1e-7
        assert np.linalg.norm(shape.vertices, axis=1).max() == pytest.approx(1.0)
        middle = shape.vertices.min(axis=0) + shape.vertices.max(axis=0)
        assert np.abs(middle).max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("class_name", CLASSES)
def test_every_part_name_occurs_and_no_other(class_name):
    found = set()
    for number in NUMBERS:
        found |= set(make_shape(class_name, shape_rng(0, class_name, number)).face_parts.tolist())
    assert found == set(range(len(PARTS[class_name])))


@pytest.mark.slow
@pytest.mark.parametrize("class_name", CLASSES)
def test_no_part_floats(class_name):
    for shape in some(class_name, 5):
        size = len(shape.vertices)
        edges = shape.faces[:, [0, 1, 1, 2]].reshape(-1, 2)
        graph = coo_matrix((np.ones(len(edges)), edges.T), (size, size))
        block = connected_components(graph)[1]
        rng = np.random.default_rng(0)
        areas = face_areas(Mesh(shape.vertices, shape.faces))
        face = rng.choice(len(areas), 10_000, p=areas / areas.sum())
        weights = rng.dirichlet(np.ones(3), len(face))
        points = np.einsum("nc,ncd->nd", weights, shape.vertices[shape.faces[face]])
        owner = np.concatenate([block[shape.faces[face, 0]], block])
        near = cKDTree(np.concatenate([points, shape.vertices])).query_pairs(
            0.04, output_type="ndarray"
        )
        touching = coo_matrix((np.ones(len(near)), owner[near].T), (block.max() + 1,) * 2)
        assert connected_components(touching)[0] == 1


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_same_state_gives_the_same_shape_and_another_does_not(class_name):
    first, again, other = (make_shape(class_name, shape_rng(1, class_name, n)) for n in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    extents = [np.ptp(shape.vertices, axis=0) for shape in (first, other)]
    assert np.abs(extents[0] - extents[1]).max() > 1e-3
    ratios = [np.ptp(s.vertices[:, 2]) / np.ptp(s.vertices[:, 0]) for s in some(class_name, 20)]
    assert np.std(ratios) > 0.1 * np.mean(ratios)


def test_z_is_up():
    def middle(shape, class_name, part):
        chosen = shape.faces[shape.face_parts == PARTS[class_name].index(part)]
        return shape.vertices[chosen].reshape(-1, 3).mean(axis=0)

    for class_name, low, high in [
        ("chair", "legs", "back"),
        ("table", "legs", "top"),
        ("lamp", "base", "shade"),
        ("bottle", "body", "neck"),
        ("car", "wheels", "cabin"),
    ]:
        for shape in some(class_name):
            assert middle(shape, class_name, low)[2] < middle(shape, class_name, high)[2]
    for shape in some("chair"):  # faces -y: its back is behind the seat
        assert middle(shape, "chair", "back")[1] > middle(shape, "chair", "seat")[1]
    for shape in some("bus"):  # noses along -y
        assert np.ptp(shape.vertices[:, 1]) > np.ptp(shape.vertices[:, 0])


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_bigger_set_contains_the_smaller_byte_for_byte(tmp_path):
    generate(tmp_path / "small", seed=5, train_per_class=2, test_per_class=1)
    generate(tmp_path / "big", seed=5, train_per_class=3, test_per_class=2)
    small, big = contents(tmp_path / "small"), contents(tmp_path / "big")
    assert len(small) == len(CLASSES) * 3 * 2 and len(big) == len(CLASSES) * 5 * 2
    assert small.items() <= big.items()
    assert len({big[name] for name in big if name.endswith(".off")}) == len(CLASSES) * 5
    stems = [name.rsplit("/", 1)[1] for name in big]
    assert len(stems) == len(set(stems))  # an id tells train from test


def test_a_written_mesh_is_the_shape_with_its_labels(tmp_path):
    generate(tmp_path, seed=5, train_per_class=1, test_per_class=0)
    path = tmp_path / "mug" / "train" / "mug_0001.off"
    shape = make_shape("mug", shape_rng(5, "mug", 1))
    rows = path.read_text().splitlines()
    assert rows[0] == "OFF" and rows[1] == f"{len(shape.vertices)} {len(shape.faces)} 0"
    vertices = np.loadtxt(rows[2 : 2 + len(shape.vertices)])
    faces = np.loadtxt(rows[2 + len(shape.vertices) :], dtype=int)
    assert np.abs(vertices - shape.vertices).max() < 1e-6
    assert np.array_equal(faces[:, 1:], shape.faces) and (faces[:, 0] == 3).all()
    with np.load(path.with_suffix(".parts.npz")) as labels:
        assert np.array_equal(labels["face_parts"], shape.face_parts)
        assert tuple(labels["part_names"]) == PARTS["mug"]


def test_running_again_repairs_what_is_damaged_and_leaves_the_rest(tmp_path):
    generate(tmp_path, seed=0, train_per_class=1, test_per_class=0)
    before = contents(tmp_path)
    damaged = tmp_path / "car" / "train" / "car_0001.off"
    kept = tmp_path / "bus" / "train" / "bus_0001.off"
    stamp = kept.stat().st_mtime_ns
    damaged.write_text("OFF\n1 0 0\n")
    generate(tmp_path, seed=0, train_per_class=1, test_per_class=0)
    assert contents(tmp_path) == before
    assert kept.stat().st_mtime_ns == stamp


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="teapot"):
        make_shape("teapot", np.random.default_rng(0))
    with pytest.raises(ConfigError, match="-1 train"):
        generate(tmp_path, seed=0, train_per_class=-1, test_per_class=1)
    with pytest.raises(ConfigError, match="seed"):
        generate(tmp_path, seed=-1, train_per_class=1, test_per_class=1)
    generate(tmp_path, seed=0, train_per_class=2, test_per_class=0)
    with pytest.raises(DataError, match=f"{len(CLASSES)} meshes"):
        generate(tmp_path, seed=0, train_per_class=1, test_per_class=0)
