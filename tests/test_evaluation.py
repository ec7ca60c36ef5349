"""test.py: predictions, and beyond classification: parts, pixels, one cloud, probes."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import test as test_program
import train_student
from data.storage import open_split
from models import load_model
from utils import results
from utils.checkpoint import read_model
from utils.errors import ConfigError, DataError


def predictions(path: Path) -> dict[str, np.ndarray]:
    """What test.py kept of every shape; no Python objects."""
    with np.load(path) as file:
        return dict(file)


@pytest.mark.usefixtures("undrawn")
def test_predictions_are_kept_beside_the_table(workshop, distilled, tmp_path):
    """Of students and teachers, on the usual split under the name of the run alone."""
    common = ["--results", str(tmp_path / "mine" / "r.csv"), "--pictures", str(tmp_path)]
    split = open_split("Tiny", "test", workshop.root)
    for path in (distilled, workshop.teacher):
        test_program.main([str(path), *common])
        (*_, row) = results.read(tmp_path / "mine" / "r.csv")
        found = predictions(tmp_path / "mine" / "predictions" / f"{path.stem}.npz")
        assert set(found) == {"ids", "labels", "prediction"}
        assert found["ids"].tolist() == split.ids
        assert found["labels"].tolist() == split.labels.tolist()
        right = found["prediction"] == found["labels"]
        assert 100 * right.mean() == pytest.approx(row.overall, abs=1e-3)
    again = (tmp_path / "mine" / "predictions" / "distilled.npz").read_bytes()
    test_program.main([str(distilled), *common, "--predictions", str(tmp_path / "elsewhere")])
    assert (tmp_path / "elsewhere" / "distilled.npz").read_bytes() == again


@pytest.mark.usefixtures("undrawn")
def test_predictions_on_other_shapes_name_them(workshop, distilled, tmp_path):
    shutil.copytree(workshop.root / "Tiny", tmp_path / "Other")
    for split in ("train", "test"):
        with h5py.File(tmp_path / "Other" / f"{split}.h5", "r+") as file:
            file.attrs["name"] = "Other"
    common = [str(distilled), "--results", str(tmp_path / "r.csv"), "--pictures", str(tmp_path)]
    test_program.main([*common, "--split", "train"])
    test_program.main([*common, "--data", "Other", "--root", str(tmp_path)])
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == {
        "distilled_Tiny_train.npz",
        "distilled_Other_test.npz",
    }
    found = predictions(tmp_path / "predictions" / "distilled_Tiny_train.npz")
    assert found["ids"].tolist() == open_split("Tiny", "train", workshop.root).ids
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"distilled.npz cannot be written .*another folder"):
        test_program.main([*common, "--predictions", str(tmp_path / "file")])
    assert len(results.read(tmp_path / "r.csv")) == 2  # no row without its predictions


@pytest.fixture(scope="module")
def segmented(workshop) -> Path:
    arguments = ["terms.alignment.weight=0", "terms.task.weight=1", "train.epochs=1"]
    arguments = workshop.student_arguments(
        "parts_s0", *arguments, recipe="partseg_pointnet", data="labeledpsb"
    )
    train_student.main(arguments)
    return workshop.student("parts_s0")


@pytest.mark.slow
def test_a_segmentation_student_is_tested_by_its_parts(workshop, segmented, tmp_path, capsys):
    table = tmp_path / "results.csv"
    test_program.main([str(segmented), "--results", str(table), "--pictures", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("\n") == 16 + 4
    (row,) = results.read(table)
    split = open_split("Tiny", "test", workshop.root)
    student, parts = load_model(segmented), split.global_parts()[:, :128]
    points = torch.from_numpy(split.points()[:, :128])
    logits = student(points, torch.from_numpy(split.labels)).logits
    found, ious = np.empty_like(parts), []
    for shape, label in enumerate(split.labels):
        begin, end = split.part_ranges[label]
        found[shape] = logits[shape, :, begin:end].argmax(dim=1) + begin
        ious.append([])
        for part in range(begin, end):
            both = ((found[shape] == part) & (parts[shape] == part)).sum()
            either = ((found[shape] == part) | (parts[shape] == part)).sum()
            ious[-1].append(both / either if either else 1.0)
    expected = 100 * np.mean([np.mean(shape) for shape in ious])
    assert row.instance_miou == pytest.approx(expected, abs=1e-3)
    assert row.overall == pytest.approx(100 * (found == parts).mean(), abs=1e-3)
    assert row.class_miou == pytest.approx(row.instance_miou, abs=1e-3)  # 2 shapes of each class
    assert row.instance_miou_lenient >= row.instance_miou
    kept = predictions(tmp_path / "predictions" / "parts_s0.npz")
    assert set(kept) == {"ids", "labels", "iou", "iou_lenient"}
    np.testing.assert_allclose(kept["iou"], [100 * np.mean(shape) for shape in ious], rtol=1e-5)
    assert kept["iou"].mean() == pytest.approx(row.instance_miou, abs=1e-3)
    assert kept["iou_lenient"].mean() == pytest.approx(row.instance_miou_lenient, abs=1e-3)
    assert (row.task, row.mean_class) == ("segmentation", None)
    assert (tmp_path / "parts_s0_Tiny_test.png").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="classification student"):
        test_program.main([str(segmented), "--probe", "svm"])


def test_the_parts_of_one_cloud(workshop, segmented, tmp_path, capsys):
    np.save(tmp_path / "cloud.npy", open_split("Tiny", "test", workshop.root).points()[0])
    arguments = [
        str(segmented),
        "--cloud",
        str(tmp_path / "cloud.npy"),
        "--pictures",
        str(tmp_path),
    ]
    test_program.main([*arguments, "--category", "bus"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("512 points, 128 used")
    names = open_split("Tiny", "test", workshop.root).part_names["bus"]
    assert [line.split("%")[1].strip() for line in lines[1:-1]] == names
    assert sum(float(line.split("%")[0]) for line in lines[1:-1]) == pytest.approx(100, abs=0.1)
    assert (tmp_path / "cloud_parts.png").stat().st_size > 5000
    with pytest.raises(ConfigError, match="found --category buss.*did you mean 'bus'"):
        test_program.main([*arguments, "--category", "buss"])
    with pytest.raises(ConfigError, match="no --category, expected one of"):
        test_program.main(arguments)


@pytest.mark.slow
def test_probes_of_a_student_without_labels_and_of_random_weights(workshop, tmp_path, capsys):
    train_student.main(workshop.student_arguments("unlabelled", "terms.task.weight=0"))
    path, table = workshop.student("unlabelled"), tmp_path / "results.csv"
    with pytest.raises(ConfigError, match="trained without labels, its classes mean nothing"):
        test_program.main([str(path), "--results", str(table)])
    common = [str(path), "--results", str(table)]
    few = ["--probe", "fewshot", "--ways", "4", "--shots", "2", "--queries", "2"]
    for arguments in (["--probe", "svm"], ["--probe", "svm", "--random-weights", "1"], few):
        test_program.main([*common, *arguments])
    learned, random, episodes = results.read(table)
    assert (learned.run, random.run) == ("unlabelled", "unlabelled_random1")
    assert learned.method == "pointmcd on Tiny without labels"
    assert (random.method, random.epochs, random.seed) == ("random weights", 0, 1)
    assert random.checkpoint != learned.checkpoint == episodes.checkpoint
    assert [row.task for row in (learned, random, episodes)] == ["svm", "svm", "fewshot"]
    assert episodes.protocol.startswith("4-way 2-shot")
    assert episodes.deviation >= 0
    for row in (learned, random):
        kept = predictions(tmp_path / "predictions" / f"{row.run}_svm_Tiny.npz")
        right = 100 * (kept["prediction"] == kept["labels"]).mean()
        assert right == pytest.approx(row.overall, abs=1e-3)
    assert len(list((tmp_path / "predictions").iterdir())) == 2  # episodes draw shapes anew
    chosen = float(learned.protocol.split()[3])
    assert f"{chosen:g}: " in capsys.readouterr().out
    for arguments in (["--random-weights", "1"], ["--probe", "svm", "--split", "val"]):
        with pytest.raises(SystemExit) as caught:
            test_program.main([*common, *arguments])
        assert caught.value.code == 2
    with pytest.raises(DataError, match="16 classes have 3 training and 2 test") as caught:
        test_program.main(
            [*common, "--probe", "fewshot", "--shots", "3", "--ways", "17", "--queries", "2"]
        )


@pytest.mark.slow
def test_teachers_of_pixels_are_tested(pixel_teachers, tmp_path, capsys):
    first, second = pixel_teachers
    common = ["--results", str(tmp_path / "r.csv"), "--pictures", str(tmp_path)]
    test_program.main([str(first), *common])
    printed = capsys.readouterr().out
    assert not (tmp_path / "r.csv").exists()  # it has no accuracy
    error = float(printed.split("mean absolute error ")[1].split()[0])
    logged = read_model(first)["training"]["metrics"]["eval/pixel"]
    assert error == pytest.approx(logged, abs=1e-3)
    kept = predictions(tmp_path / "predictions" / "autoencoder.npz")
    assert set(kept) == {"ids", "labels", "error"}
    assert kept["error"].mean() == pytest.approx(logged, abs=1e-5)
    test_program.main([str(second), *common])
    (row,) = results.read(tmp_path / "r.csv")
    assert "of the pixels right" in capsys.readouterr().out
    logged = read_model(second)["training"]["metrics"]["eval/instance_miou"]
    assert row.instance_miou == pytest.approx(logged, abs=0.1)
    kept = predictions(tmp_path / "predictions" / "partseg.npz")
    assert np.nanmean(kept["iou"]) == pytest.approx(row.instance_miou, abs=1e-3)
    for path in pixel_teachers:
        assert (tmp_path / f"{path.stem}_Pixels_test.png").stat().st_size > 5000
