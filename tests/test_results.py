"""Metrics, the table of results, checkpoints and atomic files."""

import dataclasses
import multiprocessing

import numpy as np
import pytest
import torch

from scripts import make_tables
from scripts.choose_weight import choose, task_weight
from utils import checkpoint, results
from utils.errors import DataError
from utils.files import atomic_path
from utils.metrics import accuracies, confusion_matrix, score

ROW = results.Result(
    time="2026-01-01 00:00",
    role="student",
    run="a_s0",
    data="Set",
    split="test",
    protocol="last epoch",
    model="pointnet",
    method="pointmcd",
    recipe="task 0.1 distill 1; sgd 0.1, batch 16",
    points=1024,
    epochs=30,
    seed=0,
    shapes=100,
    overall=60.0,
    mean_class=50.0,
    train_seconds=60.0,
    test_seconds=1.0,
    train_device="cpu, 1 threads",
    device="cpu",
    commit="abc",
    checkpoint="0123",
)


def row(**changes) -> results.Result:
    return dataclasses.replace(ROW, **changes)


def test_accuracies_of_a_known_confusion():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 2])
    matrix = confusion_matrix(labels, predictions, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    found = score(matrix)
    assert found.overall == pytest.approx(100 * 4 / 6)
    assert found.mean_class == pytest.approx(100 * (2 / 3 + 1 / 2 + 1) / 3)
    assert np.isnan(found.per_class[3])
    logits = np.eye(4)[predictions]
    assert accuracies({"label": labels, "logits": logits})["eval/overall"] == found.overall


def test_classes_outside_the_range_are_refused():
    for labels, predictions in (([0, 4], [0, 1]), ([0, -1], [0, 1]), ([0], [0, 1])):
        with pytest.raises(ValueError, match="class|labels"):
            confusion_matrix(np.array(labels), np.array(predictions), 4)


def test_rows_come_back_with_their_types(tmp_path):
    table = tmp_path / "new" / "results.csv"
    rows = [row(), row(run="b, with a comma", overall=61.25)]
    for one in rows:
        results.append(table, one)
    assert results.read(table) == rows


def append_many(path, first):
    for number in range(first, first + 25):
        results.append(path, row(seed=number))


def test_two_programs_append_at_once(tmp_path):
    table = tmp_path / "results.csv"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(table, first)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(one.seed for one in results.read(table)) == [*range(25), *range(100, 125)]


def test_damaged_tables_are_named(tmp_path):
    table = tmp_path / "results.csv"
    results.append(table, row())
    table.write_text(table.read_text() + "half a row,1\n")
    with pytest.raises(DataError, match="line 3"):
        results.read(table)


def test_seeds_are_joined_and_reruns_are_not_counted_twice(tmp_path):
    rows = [row(overall=60.0), row(run="a_s1", seed=1, overall=62.0), row(overall=61.0)]
    rows += [row(run="base", method="baseline", overall=55.0), row(run="held", split="val")]
    rows += [row(run="t", role="teacher", model="resnet18", method="-", points=0)]
    table = tmp_path / "results.csv"
    for one in rows:
        results.append(table, one)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table Set -->\nold\n<!-- end of table -->\nafter\n")
    make_tables.main(["--results", str(table), "--readme", str(readme)])
    text = readme.read_text()
    assert text.startswith("before\n<!-- table Set -->\n| model")
    assert text.endswith("<!-- end of table -->\nafter\n")
    assert "old" not in text
    assert "| 61.5 ± 0.7 | 50.0 ± 0.0 | 2 |" in text
    assert "| baseline | task 0.1 distill 1; sgd 0.1, batch 16 | 30 | 55.0 | 50.0 | 1 |" in text
    assert text.index("resnet18 (teacher)") < text.index("pointnet, 1024 points")
    readme.write_text("nothing to fill\n")
    with pytest.raises(DataError, match="no <!-- table"):
        make_tables.main(["--results", str(table), "--readme", str(readme)])
    with pytest.raises(DataError, match="no row for Other"):
        make_tables.main(["--results", str(table), "--data", "Other"])


def test_the_weight_is_chosen_on_validation_rows_only():
    held = {"method": "baseline", "split": "val"}
    rows = [
        row(run="a", recipe="task 0.1; sgd", overall=40.0, **held),
        row(run="b", recipe="task 1; sgd", overall=50.0, **held),
        row(run="c", recipe="task 0.1; sgd", overall=99.0, method="baseline"),
        row(run="d", recipe="task 0.1; sgd", overall=99.0, split="val"),
        row(run="e", recipe="task 0.1; sgd", overall=99.0, model="dgcnn", **held),
    ]
    assert choose(rows, "Set", "pointnet", 30) == 1.0
    rows.append(row(run="f", recipe="task 0.1; sgd", overall=60.0, **held))
    rows.append(row(run="g", recipe="task 1; sgd", overall=99.0, epochs=100, **held))
    assert choose(rows, "Set", "pointnet", 30) == 0.1
    assert task_weight("task 0.25 transform 0.001; sgd 0.1, batch 16") == 0.25
    with pytest.raises(DataError, match="no baseline of curvenet"):
        choose(rows, "Set", "curvenet", 30)


def test_checkpoints_are_equal_bytes_and_hold_no_code(tmp_path):
    content = {"a": torch.arange(3), "b": [1, "x", None, 2.5]}
    checkpoint.save(tmp_path / "one.pth", content)
    checkpoint.save(tmp_path / "two.pth", content)
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()
    torch.save({"code": print}, tmp_path / "code.pth")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        checkpoint.read(tmp_path / "code.pth")
    with pytest.raises(DataError, match="no checkpoint at"):
        checkpoint.read(tmp_path / "none.pth")


def test_fingerprints_follow_names_and_values():
    state = {"a": torch.arange(4.0), "b": torch.tensor(1)}
    print_ = checkpoint.fingerprint(state)
    assert print_ == checkpoint.fingerprint(dict(reversed(state.items())))
    assert print_ != checkpoint.fingerprint({**state, "b": torch.tensor(2)})
    assert print_ != checkpoint.fingerprint({"a": state["a"], "c": state["b"]})


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
