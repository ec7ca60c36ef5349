"""What a borrowed GPU should measure: every line is parsed, and steps end in time and go on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from helpers import parse_script
from parse_line import parse_line

from utils.settings import StudentConfig

# In the place of Python: notes its line, makes what the script looks for, may take long or fail.
STAND_IN = """
echo "$*" >> "$LINES"
case "$*" in *"${SLOW:-nothing}"*) sleep 300 & echo $! >> "$LINES.pids"; wait ;; esac
case "$*" in
    test.py*) name=$(basename "$2" .pth); echo ",$name,${name%%_*},test,last epoch" >> "$RESULTS" ;;
    *scripts.bench*) echo rows > "${@: -1}" ;;
    *scripts.profile*) exit 3 ;;
    *pytest*) exit 1 ;;
esac
"""


@pytest.mark.parametrize("tiny", [{}, {"TINY": "1"}], ids=["GPU", "rehearsal"])
def test_every_line_of_what_a_gpu_should_measure_is_parsed(tmp_path, tiny):
    given = {name: "x" for name in ("BASE", "PSB26", "MODELNET40", "WHEELS")}
    environment = {"DRY": "1", "PYTHON": "python", "OUT": str(tmp_path), **given, **tiny}
    done = parse_script("gpu.sh", tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    lines = [part for line in done.stdout.splitlines() for part in line.split(" && ")]
    prepared = ["bash scripts/prepare_psb26.sh x", "bash scripts/prepare_modelnet40.sh x"]
    assert all((line in lines) != bool(tiny) for line in prepared)
    commands = [line.removeprefix("python ") for line in lines if line not in prepared]
    tests = next(line for line in commands if line.startswith("-m pytest"))
    files = (ROOT / "tests").glob("test_*.py")
    on_a_gpu = [path for path in files if re.search(r"^needs_cuda = ", path.read_text(), re.M)]
    assert tiny or {f"tests/{path.name}" for path in on_a_gpu} <= set(tests.split())
    commands.remove(tests)
    students = {}
    for command in commands:
        command = command.replace("terms.task.weight=CHOSEN", "terms.task.weight=1")
        parsed = parse_line(command.split())
        if isinstance(parsed, StudentConfig):
            students[parsed.run.name] = parsed
    sets = [config.data.name for config in students.values()]
    expected = {"TinyPSB26": 2, "TinyModelNet40": 2} if tiny else {"PSB26": 21, "ModelNet40": 8}
    assert {name: sets.count(name) for name in sets} == expected
    assert {config.train.amp for config in students.values()} == {"none" if tiny else "bf16"}
    epochs = {(config.data.name, config.train.epochs) for config in students.values()}
    assert epochs == {(name, 1) for name in sets} or epochs == {("PSB26", 150), ("ModelNet40", 60)}
    assert list(students)[-1 if tiny else 21].split("_")[1] == "pointnet2"  # the first there


@pytest.fixture
def elsewhere(tmp_path):
    """``elsewhere(TINY=1)``: the script with a stand-in, in a project without data and results;
    ``elsewhere.lines()``: those that were run since the last look."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "tests").mkdir()
    (tmp_path / "python").write_text(STAND_IN)
    noted = tmp_path / "lines"
    usual = {"PYTHON": f"bash {tmp_path}/python", "LINES": str(noted)}

    def start(**environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "scripts/gpu.sh"],
            cwd=tmp_path,
            env=os.environ | usual | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(**environment: str) -> tuple[int, str]:
        started = start(**environment)
        said, _ = started.communicate(timeout=60)
        return started.returncode, said

    def lines() -> str:
        found = noted.read_text()
        noted.write_text("")
        return found

    run.start, run.lines, run.folder = start, lines, tmp_path
    return run


def left_over(folder) -> list[str]:
    """Of the processes that were slow, those that still run."""
    time.sleep(0.2)  # a signal takes its time
    pids = ",".join((folder / "lines.pids").read_text().split())
    done = subprocess.run(["ps", "-o", "stat=", "-p", pids], capture_output=True, text=True)
    return [state for state in done.stdout.split() if not state.startswith("Z")]


def test_it_ends_in_time_and_the_same_command_goes_on(elsewhere):
    begin = time.monotonic()
    code, said = elsewhere(TINY="1", LIMIT="12", SLOW="run.name=TinyPSB26_pointnet_pointmcd")
    assert 3 < time.monotonic() - begin < 14
    assert code == 1
    last = said.split("results are in expt/tiny\n")[1]
    assert (elsewhere.folder / "expt" / "tiny" / "summary.txt").read_text().endswith(last)
    assert "tests: failed with code 1" in last and re.search(r"bench: done in \d s\n", last)
    assert "profile: failed with code 3" in last and "ratio: skipped" in last
    assert re.search(r"psb26: stopped after \d s; missing: TinyPSB26_pointnet_pointmcd_\w+\n", last)
    assert re.search(r"modelnet40: not begun; missing: (TinyModelNet40_\w+ ?){2}$", last.strip())
    assert left_over(elsewhere.folder) == []
    assert "pytest" in elsewhere.lines()

    code, said = elsewhere(TINY="1")
    assert code == 1  # the profile fails again
    last = said.split("results are in expt/tiny\n")[1]
    assert re.search(r"tests: failed .*, before\nbench: done in \d s, before\nprofile: fail", last)
    assert re.search(r"psb26: done in \d+ s\n", last) and "missing" not in last
    again = elsewhere.lines()
    assert "pytest" not in again and "scripts.bench" not in again and "scripts.profile" in again
    assert "TinyPSB26_pointnet_baseline" not in again and "TinyPSB26_pointnet_pointmcd" in again

    code, said = elsewhere(TINY="1", FRESH="1", STEPS="bench psb26")
    assert code == 0 and "psb26: done, all rows are there" in said
    again = elsewhere.lines()
    assert "scripts.bench" in again and "train_student.py" not in again


def test_it_can_be_told_to_stop(elsewhere):
    started = elsewhere.start(TINY="1", STEPS="bench psb26", SLOW="scripts.bench")
    while not (elsewhere.folder / "lines.pids").exists():
        assert started.poll() is None
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    said, _ = started.communicate(timeout=20)
    assert started.returncode == 124
    assert "bench: stopped\npsb26: not begun; missing: TinyPSB26_pointnet_baseline_s0_e1 " in said
    assert left_over(elsewhere.folder) == []


def test_what_there_is_no_data_for_is_skipped_in_a_line(elsewhere):
    code, said = elsewhere(STEPS="bench ratio psb26 modelnet40", BASE=str(ROOT))
    assert code == 0
    assert "ratio: skipped: it takes a checkout, BASE, and the set of psb26\n" in said
    assert "psb26: skipped: there is no data/PSB26, and no archive in PSB26\n" in said
    assert "modelnet40: skipped: there is no data/ModelNet40, and no archive in MODEL" in said
    assert len(elsewhere.lines().splitlines()) == 1
    for place in ("expt/gpu", "expt"):  # what was measured for real belongs to the project
        assert (elsewhere.folder / place / "bench_cuda.json").read_text() == "rows\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"STEPS": "bench benhc"}, "unknown step benhc, expected some of: tests bench"),
        ({"MODELNET40": "nothing.tar"}, "MODELNET40: there is no nothing.tar"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_runs(elsewhere, given, said):
    code, found = elsewhere(**given)
    assert code == 2 and found.startswith(said)
    assert not (elsewhere.folder / "lines").exists()


@pytest.mark.slow
def test_the_rehearsal(tmp_path):
    environment = {"TINY": "1", "OUT": str(tmp_path), "JOBS": "1", "LIMIT": "1500"}
    environment |= {"STEPS": "profile psb26 modelnet40"}
    done = parse_script("gpu.sh", tmp_path, PYTHON=sys.executable, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = (tmp_path / "results.csv").read_text()
    assert len(rows.splitlines()) == 1 + 2 * 3
    assert len(list((tmp_path / "predictions").iterdir())) == 6
    assert "pointnet2_ssg" in (tmp_path / "profile_cpu.txt").read_text()
    for name in ("TinyPSB26", "TinyModelNet40"):
        table = done.stdout.split(f"{name}, classification, test split")[1]
        assert "| pointmcd |" in table and "| baseline |" in table
