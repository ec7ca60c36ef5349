"""Bad input: one clear line on standard error, the documented exit code, nothing begun."""

import shutil

import h5py
import numpy as np
import pytest
from conftest import TEACHER, run_program

import export_teacher
import test as test_program
import train_student
import train_teacher
from data import show
from data.prepare import __main__ as prepare
from scripts import make_tables
from utils import checkpoint, results


def prepared(arguments):
    prepare.prepare(prepare.parse(arguments))


def test_missing_and_unknown_sets(workshop, refused, distilled):
    line = refused(train_student.main, workshop.student_arguments("x", "data.name=Nothing"), 3)
    assert "Nothing" in line and "data.prepare" in line
    assert "Nothing" in refused(test_program.main, [distilled, "--data", "Nothing"], 3)
    assert "no bank" in refused(
        train_student.main, workshop.student_arguments("x", "targets.bank=no.h5"), 3
    )
    line = refused(train_student.main, workshop.student_arguments("x", "targets.bank=null"), 2)
    assert "targets.bank=FILE" in line


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_truncated_files(workshop, refused, distilled, tmp_path, kept):
    root = tmp_path / "data"
    shutil.copytree(workshop.root / "Tiny", root / "Tiny")
    whole = (root / "Tiny" / "train.h5").read_bytes()
    (root / "Tiny" / "train.h5").write_bytes(whole[:kept] if kept < 5000 else whole[:-kept])
    line = refused(train_student.main, workshop.student_arguments("x", f"data.root={root}"), 3)
    assert "train.h5" in line
    bank = tmp_path / "bank.h5"
    whole = workshop.bank.read_bytes()
    bank.write_bytes(whole[:kept] if kept < 5000 else whole[:-kept])
    assert "bank.h5" in refused(
        train_student.main, workshop.student_arguments("x", f"targets.bank={bank}"), 3
    )
    cut = tmp_path / "cut.pth"
    whole = distilled.read_bytes()
    cut.write_bytes(whole[:kept] if kept < 5000 else whole[:-kept])
    assert "cut.pth" in refused(test_program.main, [cut], 3)


def test_files_of_another_kind(workshop, refused, distilled, tmp_path):
    arguments = workshop.student_arguments(
        "x", f"targets.bank={workshop.root / 'Tiny' / 'train.h5'}"
    )
    assert "not a bank" in refused(train_student.main, arguments, 3)
    broken = tmp_path / "nan.h5"
    shutil.copy(workshop.bank, broken)
    with h5py.File(broken, "r+") as file:
        file["view_codes"][0, 0, 0] = np.nan
    arguments = workshop.student_arguments("x", f"targets.bank={broken}")
    assert "not finite" in refused(train_student.main, arguments, 3)
    newer = tmp_path / "newer.h5"
    shutil.copy(workshop.bank, newer)
    with h5py.File(newer, "r+") as file:
        file.attrs["version"] = 99
    arguments = workshop.student_arguments("x", f"targets.bank={newer}")
    assert "version 99" in refused(train_student.main, arguments, 3)
    content = checkpoint.read_model(workshop.teacher)
    content["model"]["classifier.weight"][0, 0] = np.nan
    checkpoint.save(tmp_path / "nan.pth", content)
    arguments = [tmp_path / "nan.pth", "--output", tmp_path / "never.h5", "--device", "cpu"]
    assert "not finite" in refused(export_teacher.main, arguments, 3)
    assert not (tmp_path / "never.h5").exists()
    assert "checkpoint of a student, expected a teacher" in refused(
        export_teacher.main, [distilled], 3
    )
    arguments = [workshop.teacher, "--cloud", "any.xyz"]
    assert "checkpoint of a teacher, expected a student" in refused(test_program.main, arguments, 3)
    state = tmp_path / "state.pth"
    checkpoint.save(state, {"weight": 1})
    assert "not a model checkpoint" in refused(test_program.main, [state], 3)
    content = checkpoint.read_model(distilled)
    other = tmp_path / "other.pth"
    checkpoint.save(other, content | {"build": content["build"] | {"encoder": "dgcnn"}})
    assert "do not fit its own description" in refused(test_program.main, [other], 3)
    checkpoint.save(other, content | {"build": content["build"] | {"depth": 3}})
    assert "fits no network here" in refused(test_program.main, [other], 3)
    checkpoint.save(other, {k: v for k, v in content.items() if k != "classes"})
    assert "lacks classes" in refused(test_program.main, [other], 3)
    checkpoint.save(other, content | {"version": 99})
    assert "version 99" in refused(test_program.main, [other], 3)


def test_weights_that_do_not_fit_the_backbone(workshop, refused, distilled, tmp_path):
    arguments = [*TEACHER[:2], "data.name=Tiny", f"data.root={workshop.root}"]
    arguments += ["run.name=x", f"run.dir={tmp_path}"]
    line = refused(train_teacher.main, [*arguments, f"teacher.weights={workshop.teacher}"], 3)
    assert "is a checkpoint of this project already" in line
    other = tmp_path / "other.pth"
    checkpoint.save(other, checkpoint.read_model(distilled)["model"])
    line = refused(train_teacher.main, [*arguments, f"teacher.weights={other}"], 3)
    assert "do not fit resnet18" in line and "missing" in line
    assert "no weights at" in refused(
        train_teacher.main, [*arguments, "teacher.weights=none.pth"], 3
    )
    line = refused(train_teacher.main, [*arguments, "teacher.backbone=resnet81"], 2)
    assert "did you mean 'resnet18'" in line


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optim.larning_rate=1", "unknown key 'optim.larning_rate'"),
        ("train.epochs=many", "train.epochs='many'"),
        ("student.encoder=pointnett", "did you mean 'pointnet'"),
        ("student.head=none", "unknown head"),
        ("loss.distill=1", "loss.distill is called terms.alignment.weight now"),
        ("terms.alignmnet.weight=1", "did you mean 'alignment'"),
        ("terms.task.pooling=global", "unknown key 'terms.task.pooling'"),
        ("terms.task.weight=-1", "terms.task.weight=-1"),
        ("terms={task: {weight: 0}, alignment: {weight: 0}}", "nothing to learn from"),
        ("method=baseline", "found method=baseline with a weight for alignment"),
        ("terms.transform.weight=1|student.encoder=dgcnn", "without a feature transform"),
        ("data.points=4096", "holds 512 per shape"),
        ("train.batch_size=1000", "more than the 48 training shapes"),
        ("train.batch_size=1", "two shapes or more"),
        ("run.device=tpu9000", "unknown device"),
        ("run.device=meta", "unknown device"),
        ("train.seed=100000000000000000000", "train.seed"),
        ("augment.scale=[0,1]", "augment.scale"),
    ],
)
def test_wrong_words(workshop, refused, word, said):
    assert said in refused(train_student.main, workshop.student_arguments("x", *word.split("|")), 2)
    assert not (workshop.folder / "runs" / "x").exists()


def test_clouds(workshop, refused, distilled, tmp_path, capfd):
    generator = np.random.default_rng(0)
    cloud = generator.normal(size=(300, 3))
    rows = {"good": cloud, "few": cloud[:3], "flat": cloud[:, :2], "nan": cloud.copy()}
    rows["nan"][7, 1] = np.nan
    for name, values in rows.items():
        np.savetxt(tmp_path / f"{name}.xyz", values)
    for name, said in (("few", "3 points"), ("flat", "2 columns"), ("nan", "not finite")):
        assert said in refused(
            test_program.main, [distilled, "--cloud", tmp_path / f"{name}.xyz"], 3
        )
    assert "no cloud" in refused(
        test_program.main, [distilled, "--cloud", tmp_path / "none.xyz"], 3
    )
    np.save(tmp_path / "good.npy", cloud)
    for suffix in ("xyz", "npy"):
        test_program.main(
            [str(distilled), "--cloud", str(tmp_path / f"good.{suffix}"), "--top", "3"]
        )
        printed = capfd.readouterr().out.splitlines()
        assert printed[0].endswith("300 points, 128 used")
        assert len(printed) == 4
        assert 0 < float(printed[1].split("%")[0]) <= 100


def test_sources_of_meshes(refused, tmp_path):
    arguments = ["--name", "New", "--root", tmp_path / "data"]
    assert "none" in refused(prepared, [tmp_path / "none", *arguments], 3)
    (tmp_path / "meshes" / "chair").mkdir(parents=True)
    assert "chair" in refused(prepared, [tmp_path / "meshes", *arguments], 3)
    assert not (tmp_path / "data" / "New" / "train.h5").exists()
    assert "recipe" in refused(prepared, ["--shapes", *arguments, "--recipe", "ring13"], 2)
    line = refused(show.main, ["Nothing", "id", "--root", tmp_path], 3)
    assert "Nothing" in line


def test_tables(refused, tmp_path):
    assert "no table" in refused(make_tables.main, ["--results", tmp_path / "none.csv"], 3)
    (tmp_path / "old.csv").write_text("a,b\n1,2\n")
    assert "columns" in refused(make_tables.main, ["--results", tmp_path / "old.csv"], 3)
    (tmp_path / "empty.csv").write_text(",".join(results.COLUMNS) + "\n")
    arguments = ["--results", tmp_path / "empty.csv", "--split", "val"]
    assert "no row for the val split" in refused(make_tables.main, arguments, 3)


@pytest.mark.slow
def test_a_program_leaves_with_its_code_and_no_traceback(workshop):
    done = run_program("train_student.py", *workshop.student_arguments("x", "optim.lrr=1"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown key 'optim.lrr'")
    assert done.stderr.count("\n") == 1
