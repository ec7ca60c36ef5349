"""Metrics, the table of results, checkpoints and atomic files."""

import csv
import dataclasses
import json
import multiprocessing
import os
import time

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock

from models.students import ENCODERS
from models.terms import with_terms
from scripts import make_tables
from scripts.choose_weight import choose, task_weight
from utils import checkpoint, results
from utils.errors import ConfigError, DataError
from utils.files import atomic_path
from utils.metrics import confusion_matrix, score
from utils.report import method_label, recipe_label
from utils.settings import StudentConfig
from utils.tasks import Classification

ROW = results.Result(
    time="2026-01-01 00:00",
    role="student",
    run="a_s0",
    data="Set",
    split="test",
    protocol="last epoch",
    model="pointnet",
    method="pointmcd",
    recipe="task 0.1 alignment 1; sgd 0.1, batch 16",
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
    task, outputs = Classification(None, list("abcd"), []), {"label": labels}
    outputs["prediction"] = predictions
    measured = {"eval/overall": found.overall, "eval/mean_class": found.mean_class}
    assert task.measure(outputs) == measured
    report = task.report(outputs)
    assert report.columns == {name.removeprefix("eval/"): v for name, v in measured.items()}
    assert [line.split() for line in report.lines[1:]] == [
        ["a", "3", "66.7", "b"],
        ["b", "2", "50.0", "a"],
        ["c", "1", "100.0", "-"],
        ["d", "0", "nan", "-"],
    ]


def test_classes_outside_the_range_are_refused():
    for labels, predictions in (([0, 4], [0, 1]), ([0, 1], [0, -1]), ([4], [5])):
        with pytest.raises(ValueError, match=r"^class -?\d\.\.\d outside 0\.\.3$"):
            confusion_matrix(np.array(labels), np.array(predictions), 4)
    with pytest.raises(ValueError, match="1 labels for 2 predictions"):
        confusion_matrix(np.array([0]), np.array([0, 1]), 4)


def test_rows_come_back_with_their_types(tmp_path):
    table = tmp_path / "new" / "results.csv"
    rows = [row(), row(run="b, with a comma", overall=61.25)]
    for one in rows:
        results.append(table, one)
    assert results.read(table) == rows


def test_an_empty_or_an_edited_table_gets_whole_rows(tmp_path):
    table = tmp_path / "results.csv"
    table.touch()  # an empty file is an empty table
    results.append(table, row())
    table.write_text(table.read_text().rstrip("\n"))  # an editor that ends without a line feed
    results.append(table, row(seed=1))
    assert results.read(table) == [row(), row(seed=1)]
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", ".results.csv.lock"}


def hold_the_lock(path, started):
    with FileLock(path.with_name(f".{path.name}.lock")):
        started.set()
        time.sleep(600)


def test_a_killed_program_leaves_no_lock(tmp_path):
    table = tmp_path / "results.csv"
    context = multiprocessing.get_context("fork")
    started = context.Event()
    holder = context.Process(target=hold_the_lock, args=(table, started))
    holder.start()
    assert started.wait(60)
    writer = context.Process(target=results.append, args=(table, row()))
    writer.start()
    writer.join(0.5)
    assert writer.is_alive() and not table.exists()  # it waits for the other one
    holder.kill()
    writer.join(60)
    assert results.read(table) == [row()]


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/results.csv cannot be written .*another table"):
        results.append(tmp_path / "file" / "results.csv", row())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to this user")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="results.csv cannot be written"):
        results.append(tmp_path / "results.csv", row())
    tmp_path.chmod(0o700)


def test_a_frame_has_numbers_and_gaps():
    found = results.frame([row(), row(seed=1, mean_class=None)])
    assert list(found.columns) == results.COLUMNS
    assert found.seed.tolist() == [0, 1] and found.seed.dtype == np.int64
    assert found.mean_class.isna().tolist() == [False, True]
    assert found.deviation.isna().all() and found.deviation.dtype == np.float64
    assert results.frame([]).empty


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


def test_names_in_any_language_and_byte_order_marks(tmp_path):
    table = tmp_path / "results.csv"
    results.append(table, row(run="größe_シ"))
    assert results.read(table) == [row(run="größe_シ")]
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert results.read(table) == [row(run="größe_シ")]
    table.write_bytes(table.read_bytes() + "größe".encode("latin-1"))
    with pytest.raises(DataError, match="no UTF-8 text"):
        results.read(table)


def test_a_row_with_too_many_fields_is_named(tmp_path):
    results.append(tmp_path / "results.csv", row())
    text = (tmp_path / "results.csv").read_text().rstrip("\n")
    (tmp_path / "results.csv").write_text(f"{text},1\n")
    with pytest.raises(DataError, match="line 2: more fields than the"):
        results.read(tmp_path / "results.csv")


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
    make_tables.main(["--results", str(table), "--into", str(readme)])
    text = readme.read_text()
    assert text.startswith("before\n<!-- table Set -->\n| model")
    assert text.endswith("<!-- end of table -->\nafter\n")
    assert "old" not in text
    assert "| 61.5 ± 0.7 | 50.0 ± 0.0 | 2 |" in text
    assert "| baseline | task 0.1 alignment 1; sgd 0.1, batch 16 | 30 | 55.0 | 50.0 | 1 |" in text
    assert text.index("resnet18 (teacher)") < text.index("pointnet, 1024 points")
    readme.write_text("nothing to fill\n")
    with pytest.raises(DataError, match="no <!-- table"):
        make_tables.main(["--results", str(table), "--into", str(readme)])
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
    assert choose(results.frame(rows), "Set", "pointnet", 30) == 1.0
    rows.append(row(run="f", recipe="task 0.1; sgd", overall=60.0, **held))
    rows.append(row(run="g", recipe="task 1; sgd", overall=99.0, epochs=100, **held))
    assert choose(results.frame(rows), "Set", "pointnet", 30) == 0.1
    assert task_weight("task 0.25 transform 0.001; sgd 0.1, batch 16") == 0.25
    with pytest.raises(DataError, match="no baseline of curvenet"):
        choose(results.frame(rows), "Set", "curvenet", 30)


def test_checkpoints_are_equal_bytes_and_hold_no_code(tmp_path):
    content = {"a": torch.arange(3), "b": [1, "none", None, 2.5], "c": {"none": "none"}}
    checkpoint.save(tmp_path / "one.pth", content)
    apart = json.loads('{"none": "none"}')  # of strings that are equal and not the same
    checkpoint.save(tmp_path / "two.pth", content | {"c": apart})
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


def test_an_older_table_is_read_and_gets_the_new_columns_with_its_next_row(tmp_path):
    table = tmp_path / "results.csv"
    newer = row(
        run="new", task="segmentation", mean_class=None, instance_miou=70.5, class_miou=60.0
    )
    results.append(table, row())
    lines = [line.split(",") for line in table.read_text().splitlines()]
    assert len(results.REQUIRED) == 21
    old = [
        ",".join(line[:8]) for line in lines
    ]  # a file that lacks columns which were always there
    (tmp_path / "cut.csv").write_text("\n".join(old) + "\n")
    with pytest.raises(DataError, match=r"cut.csv has the columns time,.*method, expected"):
        results.read(tmp_path / "cut.csv")
    with pytest.raises(DataError, match="cut.csv has the columns"):
        results.append(tmp_path / "cut.csv", newer)
    assert (tmp_path / "cut.csv").read_text() == "\n".join(old) + "\n"

    write_old_form(table, [row(), row(run="b, with a comma")])
    assert results.read(table) == [row(), row(run="b, with a comma")]
    results.append(table, newer)
    assert table.read_text().startswith(",".join(results.COLUMNS) + "\n")
    assert results.read(table) == [row(), row(run="b, with a comma"), newer]
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".csv"}
    assert left == {".results.csv.lock", ".cut.csv.lock"}


def write_old_form(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, results.REQUIRED, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(one) for one in rows)


@pytest.mark.slow
def test_two_programs_upgrade_an_older_table_at_once(tmp_path):
    """The file that one of them waits for is replaced by the other."""
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        table = tmp_path / f"{attempt}.csv"
        write_old_form(table, [row(seed=999)])
        writers = [context.Process(target=append_many, args=(table, first)) for first in (0, 100)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        seeds = sorted(one.seed for one in results.read(table))
        assert seeds == [*range(25), *range(100, 125), 999]


def test_each_kind_has_its_own_rows():
    parts = {"task": "segmentation", "mean_class": None, "instance_miou": 80.0, "class_miou": 70.0}
    parts |= {"instance_miou_lenient": 81.0, "class_miou_lenient": 71.0}
    svm = "linear SVM, C {} of 0.001 0.01"
    rows = [
        row(data="ModelNet40"),
        row(data="ModelNet40", run="s_s0", **parts),
        row(data="ModelNet40", run="p_s0", task="svm", protocol=svm.format("0.001"), overall=80.0),
        row(
            data="ModelNet40",
            run="p_s1",
            task="svm",
            protocol=svm.format("0.01"),
            overall=82.0,
            seed=1,
        ),
        row(
            data="ModelNet40", run="p_s0", task="fewshot", protocol="5-way 10-shot", deviation=3.25
        ),
        row(data="ModelNet40", run="Set_ablation_l2_s0", method="pointmcd, l2"),
    ]
    rows = make_tables.latest(results.frame(rows))
    assert len(rows) == 6
    whole = make_tables.table(rows, "ModelNet40")
    assert "l2" not in whole
    assert whole.count("| pointnet, 1024 points | pointmcd |") == 1
    assert "| pointnet |  |  |  |  |  |  |  |  | 90.6 (yanx27/" in whole
    assert "dgcnn" not in whole  # published figures stand beside rows of ours only
    segmentation = make_tables.table(rows, "ModelNet40", "segmentation")
    assert "| 80.0 | 70.0 | 81.0 | 71.0 | 60.0 | 1 |" in segmentation
    assert "published" not in segmentation
    probes = make_tables.table(rows, "ModelNet40", "probe")
    assert "| linear SVM, C 0.001, 0.01 of 0.001 0.01 | 30 | 81.0 ± 1.4 |" in probes
    assert "| 60.0 ± 3.2 (episodes) | 50.0 | 1 |" in probes
    assert "CrossPoint, linear SVM" in probes
    ablation = make_tables.table(rows, "ModelNet40", "ablation")
    assert ablation.count("\n| pointnet, 1024 points") == 2
    widths = {line.count("|") for line in probes.splitlines()}
    assert len(widths) == 1
    with pytest.raises(DataError, match=r"no row for Set \(probe\)"):
        make_tables.table(make_tables.latest(results.frame([row()])), "Set", "probe")


def test_several_files_are_filled(tmp_path, monkeypatch):
    table, files = tmp_path / "results.csv", [tmp_path / "one.md", tmp_path / "two.md"]
    results.append(table, row())
    for chosen in ([], files[:1], files):
        for file in files:
            file.write_text("<!-- table Set -->\n<!-- end of table -->\n")
        monkeypatch.setattr(make_tables, "DOCUMENTS", files[1:])
        make_tables.main(["--results", str(table), "--into", *map(str, chosen)])
        filled = [file for file in files if "| pointmcd |" in file.read_text()]
        assert filled == (chosen or files[1:])


def test_markers_name_the_kind(tmp_path):
    table, readme = tmp_path / "results.csv", tmp_path / "README.md"
    results.append(table, row(task="svm", protocol="linear SVM, C 1 of 1"))
    readme.write_text("<!-- table Set probe -->\n<!-- end of table -->\n")
    make_tables.main(["--results", str(table), "--into", str(readme)])
    assert "| linear SVM, C 1 of 1 |" in readme.read_text()
    readme.write_text("<!-- table Set probes -->\n<!-- end of table -->\n")
    with pytest.raises(ConfigError, match="kind 'probes'"):
        make_tables.main(["--results", str(table), "--into", str(readme)])


def test_published_figures_have_a_value_and_a_source():
    for name, kinds in yaml.safe_load(make_tables.PUBLISHED.read_text()).items():
        assert set(kinds) <= set(make_tables.KINDS), name
        for lines in kinds.values():
            for model, what, value, source in lines:
                assert model in ENCODERS
                assert all(isinstance(word, str) for word in (what, value, source))
                assert source
                assert value[0].isdigit()


def test_a_row_names_what_taught_and_where_the_encoder_started():
    content = {"config": {"init": None}, "training": {"method": ["mine", "l2", "4 views"]}}
    assert method_label(content) == "mine, l2, 4 views"
    content["config"]["init"] = "ckpt/student/Set_pointnet_unsupervised_s2_e10.pth"
    assert method_label(content) == "mine, l2, 4 views, from Set_pointnet_unsupervised_e10"
    content["training"]["method"] = ["baseline"]
    assert method_label(content) == "baseline, from Set_pointnet_unsupervised_e10"


def test_a_recipe_names_the_weights_in_force():
    weights = {"transform": 0.001, "task": 0.1, "alignment": 0}
    given = {"data": {"name": "Set"}, "train": {"amp": "bf16"}, "student": {"head": "published"}}
    given["terms"] = {name: {"weight": weight} for name, weight in weights.items()}
    config = with_terms(StudentConfig)(**given).model_dump(mode="json")
    expected = "transform 0.001 task 0.1; sgd 0.1, batch 32, bf16, published head"
    assert recipe_label(config) == expected
    assert task_weight(expected) == 0.1


def test_the_weight_of_part_segmentation_is_chosen_by_its_miou():
    held = {"method": "baseline", "split": "val", "task": "segmentation"}
    rows = [
        row(run="a", recipe="task 0.1; sgd", overall=99.0, instance_miou=50.0, **held),
        row(run="b", recipe="task 1; sgd", overall=40.0, instance_miou=60.0, epochs=20, **held),
    ]
    assert choose(results.frame(rows), "Set", "pointnet", None) == 1.0
