"""Tables of results by earlier versions."""

import csv
import dataclasses

import pytest
from test_results import row

from scripts import migrate_results
from scripts.choose_weight import task_weight
from utils import results
from utils.errors import DataError

STUDENT = {
    "task 0.1 distill 1 transform 0.001; sgd 0.1, batch 64": (
        "transform 0.001 task 0.1 alignment 1; sgd 0.1, batch 64"
    ),
    "task 1 distill 0.1; adam 0.001, batch 16, bf16, published head": (
        "task 1 alignment 0.1; adam 0.001, batch 16, bf16, published head"
    ),
    "distill 1e-05 transform 0.001; sgd 0.1, batch 16": (
        "transform 0.001 alignment 1e-05; sgd 0.1, batch 16"
    ),
}
TEACHER = {
    "shape 1 view 0.5; adam 0.0003, batch 16": "task 1 views 0.5; adam 0.0003, batch 16",
    "view 1; adam 0.0003, batch 16": "views 1; adam 0.0003, batch 16",
    "pixel 1; adam 0.001, batch 16, bf16": "pixels 1; adam 0.001, batch 16, bf16",
}
KEPT = ["-", "released, distill 1; by others", "task 0.1; sgd 0.1, batch 16"]
OLD = [row(recipe=recipe) for recipe in STUDENT]
OLD += [row(recipe=recipe, role="teacher", mean_class=None) for recipe in TEACHER]
OLD += [row(recipe=recipe) for recipe in KEPT]
NEW = [*STUDENT.values(), *TEACHER.values(), *KEPT]


def make_table(path, rows):
    for one in rows:
        results.append(path, one)
    return path


def test_recipes_are_renamed_and_ordered_once_and_nothing_else_changes(tmp_path, capsys):
    tables = [make_table(tmp_path / f"{name}.csv", OLD) for name in "ab"]
    migrate_results.main([str(table) for table in tables])
    expected = [dataclasses.replace(one, recipe=new) for one, new in zip(OLD, NEW, strict=True)]
    assert results.read(tables[0]) == results.read(tables[1]) == expected
    assert capsys.readouterr().out.endswith("b.csv: 6 rows changed\n")
    before = tables[0].read_bytes(), tables[0].stat().st_ino
    migrate_results.main([str(tables[0])])
    assert (tables[0].read_bytes(), tables[0].stat().st_ino) == before
    assert capsys.readouterr().out.endswith("a.csv: 0 rows changed\n")
    assert [task_weight(recipe) for recipe in NEW[:2]] == [0.1, 1.0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"recipe": "task 0.1 distil 1; sgd 0.1"}, r"unknown weight 'distil', expected .*'alignm"),
        ({"recipe": "shape 1; adam 0.1"}, r"of a student has the unknown weight 'shape'"),
        ({"recipe": "task 0.1 distill; sgd 0.1"}, r"has names without a weight"),
        ({"recipe": "task 1; sgd 0.1", "role": "other"}, r"of a other has the unknown weight"),
    ],
)
def test_a_recipe_that_is_not_understood_is_named_and_nothing_written(tmp_path, wrong, said):
    table = make_table(tmp_path / "results.csv", [*OLD, row(**wrong)])
    before = table.read_bytes()
    with pytest.raises(DataError, match=rf"results.csv, line {len(OLD) + 2}: .*{said}"):
        migrate_results.main([str(table)])
    assert table.read_bytes() == before


def test_a_file_that_is_no_table_is_left_as_it_is(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("run,overall\na,1.0\n")
    with pytest.raises(DataError, match="has the columns run,overall, expected time,role"):
        migrate_results.main([str(other)])
    with pytest.raises(DataError, match="no table of results at"):
        migrate_results.main([str(tmp_path / "none.csv")])
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]
    assert other.read_text() == "run,overall\na,1.0\n"


def test_a_table_without_later_columns_gets_them(tmp_path):
    table = tmp_path / "results.csv"
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, results.REQUIRED, extrasaction="ignore")
        writer.writeheader()
        writer.writerow(dataclasses.asdict(OLD[0]))
    migrate_results.main([str(table)])
    assert results.read(table) == [dataclasses.replace(OLD[0], recipe=NEW[0])]
