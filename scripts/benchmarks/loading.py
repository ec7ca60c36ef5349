"""An epoch of augmented batches: one text file per shape, as published code reads, and ours."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.datasets import ShapeSet
from data.prepare.writer import ShapeRecord, SplitHeader, encode_png, write_split
from data.rendering.cameras import pack_visibility
from data.storage import PreparedSplit
from data.subsets import Subset
from data.training import TrainingBatches
from scripts.benchmarks.contest import Contest, Sizes, expect
from scripts.benchmarks.inputs import clouds, labels
from utils.settings import PointAugmentation, PointDataSettings, ViewAugmentation

POINTS, BATCH, DIGITS = 1024, 16, 6
AUGMENTATION = PointAugmentation(scale=(2 / 3, 3 / 2), anisotropic=True, shift=0.2)


class TextFiles(Dataset):
    """One file per shape: a line for each point, its coordinates with commas between them.

    ``folder`` is theirs and goes when this set does.
    """

    def __init__(
        self, folder: tempfile.TemporaryDirectory, clouds: np.ndarray, numbers: np.ndarray
    ):
        self.folder, self.numbers = folder, numbers
        self.generator = np.random.default_rng(0)
        self.paths = [Path(folder.name) / f"{row:06d}.txt" for row in range(len(clouds))]
        for path, cloud in zip(self.paths, clouds, strict=True):
            np.savetxt(path, cloud, fmt=f"%.{DIGITS}f", delimiter=",")

    def read(self, row: int) -> np.ndarray:
        """(P, 3) float64."""
        return np.loadtxt(self.paths[row], delimiter=",")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        points = self.read(row)
        low, high = AUGMENTATION.scale
        factors = self.generator.uniform(low, high, 3)
        shifts = self.generator.uniform(-AUGMENTATION.shift, AUGMENTATION.shift, 3)
        return (points * factors + shifts).astype(np.float32), int(self.numbers[row])


def contests(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], Contest]]:
    return {"data loading": partial(loading, sizes, device)}


def loading(sizes: Sizes, device: torch.device) -> Contest:
    count, batch = sizes.files, min(BATCH, sizes.files)
    points = clouds(count, POINTS, torch.device("cpu")).numpy().round(DIGITS)
    numbers = labels(count, torch.device("cpu")).numpy()
    folder = tempfile.TemporaryDirectory(prefix="bench_")
    files = TextFiles(folder, points, numbers)
    loader = DataLoader(files, batch, shuffle=True, drop_last=True)
    split = write_clouds(Path(folder.name) / "train.h5", points, numbers)
    settings = PointDataSettings(name="bench", points=POINTS)
    ours = ShapeSet(Subset(split, np.arange(count)), {"points"}, settings, device)
    epoch = TrainingBatches(ours, batch, 0, AUGMENTATION, ViewAugmentation())

    def check() -> None:
        stored = ours.take(torch.arange(count, device=device))
        read = torch.from_numpy(np.stack([files.read(row) for row in range(count)]))
        close = torch.allclose(stored["points"].cpu().double(), read, atol=1e-5)
        same = close and torch.equal(stored["label"].cpu(), torch.from_numpy(numbers))
        expect(same, "data loading", "in the clouds or their labels")

    forms = {
        "published": lambda: deque((cloud.to(device) for cloud, _ in loader), maxlen=1),
        "ours": lambda: deque(epoch(0), maxlen=1),
    }
    shapes = count // batch * batch
    return Contest(f"an epoch of {shapes} shapes, N={POINTS}", forms, check, shapes)


def write_clouds(path: Path, points: np.ndarray, numbers: np.ndarray) -> PreparedSplit:
    """A prepared split of ``points`` (S, P, 3) with one blank view."""
    count, size = points.shape[:2]
    image = encode_png(np.zeros((8, 8), np.uint8))
    names = [f"class_{number}" for number in range(int(numbers.max()) + 1)]
    seen = pack_visibility(np.ones((size, 1), bool))
    header = SplitHeader(
        name="bench",
        split="train",
        source="scripts.bench",
        class_names=names,
        part_names={},
        recipe={"image_size": 8},
        recipe_hash="",
        settings={},
        intrinsics=np.eye(3)[None],
        extrinsics=np.eye(4)[None],
        num_shapes=count,
        num_points=size,
        image_bytes=count * len(image),
    )
    normals = np.zeros((size, 3), np.float16)
    records = (
        ShapeRecord(f"{row:06d}", int(numbers[row]), points[row], normals, seen, [image])
        for row in range(count)
    )
    write_split(path, header, records)
    return PreparedSplit(path)
