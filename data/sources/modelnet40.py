"""ModelNet40 as clouds: the packed ``modelnet40_ply_hdf5_2048`` and the text files of
``modelnet40_normal_resampled``. Its meshes are read as :mod:`data.sources.folders`."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from data.sources.cloud_files import Cloud, CloudFile, Collector, read_lines, read_table
from data.sources.folders import Source
from data.sources.packed import find_packed
from data.storage import SPLITS
from utils.errors import ConfigError, DataError

MODELNETS = ("modelnet40", "modelnet10")  # with class names and lists of shapes of their own


def find_packed_clouds(folder: Path) -> Source:
    """The layout of ``modelnet40_ply_hdf5_2048``, with any number of points.

    ``shape_names.txt`` names the classes, ``train_files.txt`` and ``test_files.txt`` the files, by
    paths of which the last part counts. Ids come from ``ply_data_train_0_id2file.json`` beside
    ``ply_data_train0.h5`` where there is one, and else from the file and the row.
    """
    class_names = read_lines(folder / "shape_names.txt")
    files = {}
    for split in SPLITS:
        lines = read_lines(folder / f"{split}_files.txt")
        files[split] = [folder / PureWindowsPath(line).name for line in lines]
    return find_packed(files, class_names)


def find_text_clouds(folder: Path, variant: str) -> Source:
    """``modelnet40_normal_resampled``: ``<class>/<class>_0001.txt`` of ``x,y,z,nx,ny,nz`` lines.

    ``modelnet40_shape_names.txt`` and ``modelnet40_{train,test}.txt`` say what belongs to it; with
    variant ``modelnet10`` the lists of that name. Shapes of lists whose class has no folder are
    left out without a word, single files that are missing are listed as skipped.

    Raises:
        DataError: a list is missing, names an unknown class, or a shape twice.
    """
    there = [name for name in MODELNETS if (folder / f"{name}_shape_names.txt").is_file()]
    name = variant or (there or MODELNETS)[0]
    if name not in MODELNETS:
        raise ConfigError(f"--variant {variant}, expected one of {', '.join(MODELNETS)}")
    class_names = read_lines(folder / f"{name}_shape_names.txt")
    collector = Collector(folder, read_normals, uniform=True)
    for split in SPLITS:
        path = folder / f"{name}_{split}.txt"
        for number, stem in enumerate(read_lines(path), 1):
            class_name = stem.rpartition("_")[0]
            if class_name not in class_names:
                raise DataError(f"{path} entry {number}: {stem!r} is of none of the known classes")
            file = folder / class_name / f"{stem}.txt"
            collector.add(file, class_name, split, f"{path.name} entry {number}")
    return collector.source(class_names)


def read_normals(shape: CloudFile) -> Cloud:
    """``x,y,z,nx,ny,nz`` lines."""
    table = read_table(shape.path, 6)
    return Cloud(table[:, :3], table[:, 3:])
