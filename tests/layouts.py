"""Small sets of clouds in the layouts of the public ones."""

import itertools
import json

import h5py
import numpy as np
import trimesh

from data.sources.shapenetpart import PART_COUNTS


def draw_cloud(seed, points=64):
    """Points on an ellipsoid of another form for every seed, (points, 3) float32."""
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(points, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (directions * generator.uniform(0.3, 1, 3)).astype(np.float32)


def write_packed(path, labels, points=64, seed=0, **more):
    clouds = np.stack([draw_cloud(1000 * seed + row, points) for row in range(len(labels))])
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in {"data": clouds, "label": np.uint8(labels)[:, None], **more}.items():
            file.create_dataset(name, data=array)
    return clouds


def make_modelnet_h5(folder, points=64, ids=True):
    """Two classes; two files of training shapes, one of test shapes, named by a far machine."""
    folder.mkdir(parents=True)
    (folder / "shape_names.txt").write_text("cone\nvase\n")
    (folder / "train_files.txt").write_text(
        "data/modelnet40_ply_hdf5_2048/ply_data_train0.h5\nD:\\sets\\ply_data_train1.h5\n"
    )
    (folder / "test_files.txt").write_text("somewhere/ply_data_test0.h5\n")
    for seed, (name, labels) in enumerate(
        [("train0", [1, 0, 1]), ("train1", [0, 0]), ("test0", [0, 1, 1, 0])]
    ):
        write_packed(folder / f"ply_data_{name}.h5", labels, points, seed)
        if ids:
            names = [f"{('cone', 'vase')[c]}/shape_{seed}{n}.ply" for n, c in enumerate(labels)]
            listed = folder / f"ply_data_{name[:-1]}_{name[-1]}_id2file.json"
            listed.write_text(json.dumps(names))
    return folder


def write_table(path, *columns, separator=" "):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.column_stack(columns), fmt="%.6f", delimiter=separator)


def make_modelnet_normal(folder):
    (folder).mkdir(parents=True)
    (folder / "modelnet40_shape_names.txt").write_text("cone\nnight_stand\n")
    (folder / "modelnet10_shape_names.txt").write_text("night_stand\n")
    stems = {"train": [], "test": []}
    for seed, (name, number) in enumerate(itertools.product(("cone", "night_stand"), range(4))):
        stem = f"{name}_{number + 1:04d}"
        stems["test" if number % 2 else "train"].append(stem)
        cloud = draw_cloud(seed, 100)
        normals = cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
        write_table(folder / name / f"{stem}.txt", cloud, normals, separator=",")
    for split, names in stems.items():
        (folder / f"modelnet40_{split}.txt").write_text("\r\n".join(names) + "\r\n")
        ten = [name for name in names if name.startswith("night_stand")]
        (folder / f"modelnet10_{split}.txt").write_text("\n".join(ten) + "\n")
    return folder


def make_scanobjectnn(folder, variant=""):
    ending = f"_{variant}.h5" if variant else ".h5"
    masks = {"mask": np.zeros((4, 64), np.int64)}
    write_packed(folder / f"training_objectdataset{ending}", [0, 14, 9, 4], seed=1, **masks)
    write_packed(folder / f"test_objectdataset{ending}", [14, 0, 4, 9], seed=2, **masks)
    return folder


def make_shapenet_part(folder, categories=("Airplane", "Chair", "Table")):
    """Two training, one validation and one test shape of each category."""
    listed = {"train": [], "val": [], "test": []}
    synsets = {name: f"{place:08d}" for place, name in enumerate(PART_COUNTS)}
    firsts = dict(zip(PART_COUNTS, np.cumsum([0, *PART_COUNTS.values()]), strict=False))
    for place, name in enumerate(categories):
        for number, split in enumerate(["train", "train", "val", "test"]):
            cloud = draw_cloud(10 * place + number, 80)
            parts = firsts[name] + np.arange(80) % PART_COUNTS[name]
            write_table(folder / synsets[name] / f"s{number}.txt", cloud, cloud, parts)
            listed[split].append(f"shape_data/{synsets[name]}/s{number}")
    lines = [f"{name}\t{synset}" for name, synset in synsets.items()]
    (folder / "synsetoffset2category.txt").write_text("\n".join(lines) + "\n")
    (folder / "train_test_split").mkdir()
    for split, entries in listed.items():
        path = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        path.write_text(json.dumps(entries))
    return folder


def make_clouds(folder, suffix=".xyz", plain=False):
    for name in ("ball", "egg"):
        for number in range(4):
            split = "" if plain else ("test" if number % 2 else "train")
            path = folder / name / split / f"{name}{number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cloud = draw_cloud(number)
            if suffix == ".npy":
                np.save(path, cloud)
            elif suffix == ".ply":
                trimesh.PointCloud(cloud).export(path)
            else:
                np.savetxt(path, cloud)
    return folder
