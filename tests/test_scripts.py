"""The shell scripts: every line goes through the parser of its program."""

import re
import shlex
import tarfile

import pytest
from conftest import ROOT
from helpers import parse_script
from parse_line import parse_line

import train_student
from models.terms import with_terms
from utils.settings import GeneratorConfig, StudentConfig, TeacherConfig


def test_a_set_given_by_its_folder_does_not_lead_the_run_there():
    terms = {"task": {"weight": 1}}
    config = with_terms(StudentConfig)(data={"name": "/somewhere/Mine"}, terms=terms)
    assert train_student.run_name(config, "baseline") == "Mine_pointnet_baseline_s0"


STAND_IN = """
echo "$(printf '%q ' "$@")" >> "$LINES"
case "$*" in *epochs=several*) exit 2 ;; *choose_weight*) echo 1 ;; *) echo "ran $1" ;; esac
"""


@pytest.fixture
def stand_in(tmp_path) -> dict[str, str]:
    """Environment in which a script runs, instead of Python, what keeps the lines in a file."""
    (tmp_path / "python").write_text(STAND_IN)
    return {"PYTHON": f"bash {tmp_path}/python", "LINES": str(tmp_path / "lines")}


def test_every_line_of_the_table_is_parsed(tmp_path, stand_in):
    few = {"ENCODERS": "pointnet", "SEEDS": "1", "CHOOSE": "pointnet"}
    done = parse_script("table_psb26.sh", tmp_path, **few, **stand_in)
    assert done.returncode == 0, done.stderr + done.stdout
    logs = {path.stem: path.read_text() for path in (tmp_path / "logs").glob("*.log")}
    runs = {"choose_w0.1", "choose_w1", "baseline_s1", "pointmcd_s1", "shuffled_s0"}
    assert set(logs) == {f"PSB26_pointnet_{run}" for run in runs}
    assert all(text.count("ran") == 2 for text in logs.values())
    lines = [shlex.split(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert sum("scripts.choose_weight" in line for line in lines) == 1
    for line in lines:
        parse_line(line)


def test_a_dry_run_prints_the_commands_and_runs_nothing(tmp_path):
    done = parse_script("table_psb26.sh", tmp_path, DRY="1")
    assert done.returncode == 0, done.stderr
    assert "parsed" not in done.stdout
    assert done.stdout.count("train_student.py") == 4 + 2 * (3 + 3 + 1 + 1) + 1


def test_a_fresh_clone_has_the_rows_and_not_the_teacher(tmp_path):
    """The table of results is tracked, checkpoints are not: the teacher is made first."""
    rows = (ROOT / "expt" / "results.csv").read_text().splitlines()
    columns = rows[0].split(",")
    row = dict.fromkeys(columns, "0") | {"run": "No_such_teacher", "data": "PSB26", "split": "test"}
    (tmp_path / "results.csv").write_text(f"{rows[0]}\n{','.join(row.values())}\n")
    done = parse_script("table_psb26.sh", tmp_path, TEACHER="No_such_teacher", DRY="1")
    assert done.returncode == 0, done.stderr
    assert "train_teacher.py" in done.stdout.splitlines()[0]


def test_an_unknown_variant_of_the_ablation_is_refused(tmp_path):
    done = parse_script("table_ablation.sh", tmp_path, VARIANTS="views5", DRY="1")
    assert done.returncode != 0
    assert "unknown variant views5" in done.stderr


GPU = {"table_modelnet40.sh": {}, "table_partseg.sh": {"DATA": "ShapeNetPart"}}
CPU = {"table_modelnet40.sh": {"REDUCED": "1"}, "table_partseg.sh": {}}
CPU |= {"table_unsupervised.sh": {}, "table_ablation.sh": {}, "table_psb26.sh": {}}
CPU |= {"table_methods.sh": {}}


def parse_printed(command: str) -> str:
    """A printed command through the parser of its program, here; the set it trains on, if any."""
    line = (
        command.removeprefix("python ")
        .replace("terms.task.weight=CHOSEN", "terms.task.weight=1")
        .split()
    )
    parsed = parse_line(line)
    trains = isinstance(parsed, StudentConfig | TeacherConfig | GeneratorConfig)
    return parsed.data.name if trains else ""


@pytest.mark.parametrize(
    ("script", "environment"), [*GPU.items(), *CPU.items()], ids=lambda value: str(value)
)
def test_every_line_of_the_other_tables_is_parsed(tmp_path, script, environment):
    """In a dry run, which prints them all: a process for each would take minutes."""
    done = parse_script(script, tmp_path, DRY="1", PYTHON="python", **environment)
    assert done.returncode == 0, done.stderr
    commands = [part for line in done.stdout.splitlines() for part in line.split(" && ")]
    assert all(command.startswith("python ") for command in commands)
    sets = {parse_printed(command) for command in commands} - {""}
    usual = {"table_partseg.sh": "LabeledPSB", "table_modelnet40.sh": "ModelNet40"}
    assert sets == {environment.get("DATA", usual.get(script, "PSB26"))}
    trained = re.findall(r"train_student.py .*? run.name=(\S+)", done.stdout)
    assert len(dict.fromkeys(trained)) == len(trained) > 3
    tested = re.findall(r"test.py ckpt/student/(\S+).pth --split", done.stdout)
    assert set(tested) <= set(trained)


def test_finished_rows_are_not_run_again(tmp_path):
    rows = (ROOT / "expt" / "results.csv").read_text().splitlines()
    columns = rows[0].split(",")

    def line(run: str, data: str, protocol: str) -> str:
        named = {"run": run, "data": data, "split": "test", "protocol": protocol}
        return ",".join((dict.fromkeys(columns, "0") | named).values())

    name = "PSB26_pointnet_unsupervised_s0"
    done = [line(name, "PSB26", '"linear SVM, C 1 of 1"'), line(name, "PSB26", "last epoch")]
    done += [line(f"{name}_random0", "ModelNet40", '"5-way 10-shot, linear SVM"')]
    (tmp_path / "results.csv").write_text("\n".join([rows[0], *done]) + "\n")
    environment = {"SEEDS": "0", "CHOOSE": "", "DRY": "1"}
    printed = parse_script("table_unsupervised.sh", tmp_path, **environment).stdout
    probes = re.findall(r"--probe (\w+) .*--data (\w+) +(--random)?", printed)
    assert len(probes) == 6
    assert ("svm", "PSB26", "") not in probes
    assert ("fewshot", "ModelNet40", "--random") not in probes


def test_a_failing_line_stops_the_table(tmp_path, stand_in):
    several = {"ENCODERS": "pointnet", "EPOCHS": "several"}
    done = parse_script("table_psb26.sh", tmp_path, **several, **stand_in)
    assert done.returncode != 0
    assert "failed: see" in done.stdout


def test_an_unknown_encoder_is_refused_before_anything_runs(tmp_path):
    done = parse_script("table_psb26.sh", tmp_path, ENCODERS="pointnetto")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "unknown encoder pointnetto" in done.stderr


def test_the_archive_of_the_meshes_is_unpacked_and_cleared(tmp_path):
    (tmp_path / "PSB26" / "chair" / "train").mkdir(parents=True)
    with tarfile.open(tmp_path / "PSB26.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "PSB26", "PSB26")
    (tmp_path / "temporary").mkdir()
    folder = {"TMPDIR": str(tmp_path / "temporary")}
    done = parse_script("prepare_psb26.sh", tmp_path, str(tmp_path / "PSB26.tar.xz"), **folder)
    assert done.returncode == 0, done.stderr
    assert "parsed data.prepare.__main__" in done.stdout
    assert not list((tmp_path / "temporary").iterdir())
    done = parse_script("prepare_psb26.sh", tmp_path, "nothing.tar.xz")
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")
