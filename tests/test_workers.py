"""The processes that prepare shapes: equal bytes whatever dies, on one machine and on a cluster."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from dying import die, die_at_chairs, die_at_first, slowly

from data.prepare import cluster as clusters
from data.prepare import workers
from data.prepare.__main__ import main, parse, prepare
from data.prepare.cluster import run_cluster
from data.prepare.pack import open_work
from data.prepare.shape import ShapeSettings
from data.prepare.workers import Crew, Records, make_records, run_here, write_record
from data.sources.folders import ShapeFile, find_files
from data.synthetic.shapes import CLASSES, generate
from utils.errors import ConfigError, RunError
from utils.progress import Progress

FILES = ("report.json", "test.h5", "train.h5")
TWO = partial(run_here, workers=2)
SMALL = ["--points", "32", "--image-size", "8"]


def arguments(source, root, *more):
    return [str(source), "--name", "Set", "--root", str(root), *SMALL, *more]


def run(source, root, *more):
    return prepare(parse(arguments(source, root, *more)))


def contents(root):
    assert sorted(path.name for path in (root / "Set").iterdir()) == sorted(FILES)
    return {name: (root / "Set" / name).read_bytes() for name in FILES}


def record_files(root):
    return sorted((root / "Set" / ".work" / "records").glob("*/[!.]*.npz"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Embedded shapes of six classes, one per split, with part labels."""
    folder = tmp_path_factory.mktemp("meshes") / "meshes"
    generate(folder, 0, 1, 1)
    for name in sorted(set(CLASSES) - {"chair"})[5:]:
        shutil.rmtree(folder / name)
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The bytes of the set as one process makes it."""
    root = tmp_path_factory.mktemp("whole")
    run(source, root, "--workers", "1")
    return contents(root)


@pytest.fixture(scope="module")
def shapes(source):
    return find_files(source, 0.2, 0).shapes


@pytest.fixture(autouse=True)
def _started_by_a_server(monkeypatch):
    """Processes of this machine come from one that has imported what they need, in milliseconds;
    spawned ones, as they really are, prepare shapes in test_prepare.py."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data.prepare.workers"])
    started = SimpleNamespace(get_context=lambda _: context)
    monkeypatch.setattr(workers, "multiprocessing", started)


@pytest.fixture
def records(tmp_path):
    return Records(ShapeSettings(points=8, image_size=8), tmp_path / "records")


def when(condition, do):
    """Run ``do`` in the background as soon as ``condition`` holds; returns a way to wait for it."""

    def watch():
        end = time.monotonic() + 60
        while not condition() and time.monotonic() < end:
            time.sleep(0.002)
        do()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


# ---- records


def make_record():
    return {
        "points": np.arange(12, dtype=np.float32).reshape(4, 3),
        "images": np.arange(50, dtype=np.uint8),
        "sizes": np.array([20, 30]),
        "part_names": np.array(["leg", "seat"]),
        "count": np.array(4),
        "none": np.zeros((0, 3), np.float16),
    }


def test_a_record_is_read_as_it_was_written(shapes, records):
    record = make_record()
    write_record(records.path(shapes[0]), record)
    for names in (None, ("sizes", "count", "reason")):
        found = records.read(shapes[0], names)
        assert found.keys() == record.keys() & (set(names) if names else record.keys())
        for name, array in found.items():
            np.testing.assert_array_equal(array, record[name])
            assert array.dtype == record[name].dtype


def test_a_damaged_record_is_refused(shapes, records):
    path = Path(records.path(shapes[0]))
    write_record(path, make_record())
    content = path.read_bytes()
    place = content.index(make_record()["images"].tobytes())
    flipped = content[:place] + b"\xff" + content[place + 1 :]
    for damaged in (content[:-1], content[:20], b"[]\n", flipped):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=f"{path.name}, is damaged or has gone .* remove it"):
            records.read(shapes[0])
    path.unlink()
    with pytest.raises(RunError, match=shapes[0].id):
        records.read(shapes[0])


def test_empty_records_are_made_again_and_whole_ones_kept(source, tmp_path, whole, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data.prepare.__main__.pack", die)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path, "--workers", "1")
    emptied, *kept = record_files(tmp_path)
    assert len(kept) == 11
    emptied.write_bytes(b"")
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    with monkeypatch.context() as patch:
        patch.setattr("data.prepare.__main__.clear_up", lambda folder: None)
        run(source, tmp_path, "--workers", "1")
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps
    assert run(source, tmp_path).startswith("already prepared")
    assert contents(tmp_path) == whole


def test_a_record_belongs_to_its_settings_and_its_file(tmp_path, shapes, records):
    other = Records(ShapeSettings(points=9, image_size=8), tmp_path / "records")
    assert records.path(shapes[0]) != other.path(shapes[0])
    before = records.path(shapes[0])
    mesh = tmp_path / "mesh.off"
    mesh.write_bytes(shapes[0].path.read_bytes() + b"\n")
    grown = ShapeFile(shapes[0].id, mesh, shapes[0].class_name, shapes[0].split)
    assert records.path(grown) != before


# ---- processes of this machine


def test_few_shapes_are_handed_out_at_a_time(shapes, records, monkeypatch):
    handed_out, made, counts = [], [], []

    class Counting(ThreadPoolExecutor):
        def __init__(self, count, *_):
            super().__init__(count)

        def submit(self, *args):
            handed_out.append(args)
            counts.append(len(handed_out) - len(made))
            return super().submit(*args)

    def finish_late(shape, settings, path):
        time.sleep(0.005)
        write_record(path, {"count": np.array(1)})
        made.append(shape.id)

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Counting)
    monkeypatch.setattr(workers, "work_on", finish_late)
    make_records(shapes, records, TWO)
    assert sorted(made) == [shape.id for shape in shapes]
    assert max(counts) <= 2 * workers.AHEAD < len(shapes)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(source, tmp_path, whole, monkeypatch):
    monkeypatch.setattr(workers, "work_on", slowly)
    killed = []

    def kill():
        killed.extend(multiprocessing.active_children()[:1])
        killed[0].kill()

    watcher = when(lambda: len(record_files(tmp_path)) >= 3, kill)
    assert "skipped 0" in run(source, tmp_path, "--workers", "2")
    watcher.join()
    assert killed[0].exitcode == -signal.SIGKILL
    assert contents(tmp_path) == whole


@pytest.mark.slow
def test_a_shape_that_kills_its_worker_twice_is_given_up_alone(shapes, records, monkeypatch):
    monkeypatch.setattr(workers, "work_on", die_at_chairs)
    monkeypatch.setattr(workers, "AHEAD", 2)
    shapes = [shape for shape in shapes if shape.split == "test"]
    make_records(shapes, records, TWO)
    reasons = {shape.class_name for shape in shapes if "reason" in records.read(shape)}
    assert reasons == {"chair"}
    assert "died" in str(records.read(next(s for s in shapes if s.class_name == "chair"))["reason"])


@pytest.mark.slow
def test_a_death_that_does_not_repeat_costs_nothing(shapes, records, monkeypatch):
    monkeypatch.setattr(workers, "work_on", die_at_first)
    make_records(shapes[:3], records, TWO)
    assert not any("reason" in records.read(shape) for shape in shapes[:3])


@pytest.mark.slow
def test_workers_that_all_die_are_no_fault_of_the_shapes(shapes, records, monkeypatch):
    monkeypatch.setattr(workers, "work_on", die)
    monkeypatch.setattr(workers, "MANY", 2)
    with pytest.raises(RunError, match="2 shapes in a row killed .* enough memory"):
        make_records(shapes, records, TWO)
    again = Records(records.settings, records.folder)
    assert not any(again.has(shape) for shape in shapes), "they are tried again"


@pytest.mark.slow
def test_a_shape_given_up_is_listed_and_tried_again(source, tmp_path, whole, monkeypatch):
    def work_on(shape, settings, path):
        if shape.id.endswith("chair_0001"):
            raise MemoryError
        real(shape, settings, path)

    def stop(*_):
        raise KeyboardInterrupt

    real = workers.work_on
    with monkeypatch.context() as patch:
        patch.setattr(workers, "work_on", work_on)
        line = run(source, tmp_path / "a", "--workers", "1")
        assert "prepared 11 of 12" in line and "skipped 1" in line
        assert "want of memory" in (tmp_path / "a" / "Set" / "report.json").read_text()
        patch.setattr("data.prepare.__main__.pack", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "b", "--workers", "1")
    run(source, tmp_path / "a", "--workers", "1", "--overwrite")
    run(source, tmp_path / "b", "--workers", "1")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == whole


def test_two_processes_do_not_prepare_one_set(source, tmp_path, whole):
    (tmp_path / "Set").mkdir()
    with open_work(tmp_path / "Set"), pytest.raises(ConfigError, match="another process is prep"):
        run(source, tmp_path, "--workers", "1")
    run(source, tmp_path, "--workers", "1")
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("address", ["", "here", "http://here:1", "tcp://here"])
def test_addresses_that_are_none_are_refused(source, tmp_path, address):
    with pytest.raises(ConfigError, match="expected tcp://HOST:PORT"):
        parse(arguments(source, tmp_path, "--cluster", address))


def test_a_place_that_cannot_be_written_is_said_in_a_line(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file.*the same command goes on"):
        main(arguments(source, tmp_path / "file"))


# ---- a cluster


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    environment = os.environ.get("PYTHONPATH", "")
    folders = [str(ROOT), str(ROOT / "tests"), environment]  # as in the project's folder
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster
    os.environ["PYTHONPATH"] = environment


@pytest.mark.slow
def test_a_cluster_prepares_the_same_bytes(source, tmp_path, whole, cluster):
    done = subprocess.run(
        [sys.executable, "-m", "data.prepare"]
        + arguments(source, tmp_path, "--cluster", cluster.scheduler_address),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == whole


@pytest.mark.slow
def test_a_cluster_makes_up_for_a_worker_that_dies(source, tmp_path, whole, cluster, monkeypatch):
    monkeypatch.setattr(workers, "work_on", slowly)
    victims = [worker.process.process.pid for worker in cluster.workers.values()]
    watcher = when(
        lambda: len(record_files(tmp_path)) >= 3, lambda: os.kill(victims[0], signal.SIGKILL)
    )
    line = run(source, tmp_path, "--cluster", cluster.scheduler_address)
    watcher.join()
    assert "skipped 0" in line
    assert contents(tmp_path) == whole


@pytest.mark.slow  # it needs the optional requirement
def test_a_cluster_that_is_not_there_is_named(shapes, records, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(clusters, "PATIENCE", 0.5)
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers .*dask scheduler"):
        run_cluster(shapes, Crew(records, Progress(1, "shapes")), "tcp://127.0.0.1:9")


def test_a_missing_package_is_named(shapes, records, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match="pip install distributed"):
        run_cluster(shapes, Crew(records, Progress(1, "shapes")), "tcp://127.0.0.1:9")


class FakeClient:
    def __init__(self, threads, answer=None):
        self.threads, self.answer = threads, answer

    def nthreads(self):
        return self.threads

    def run(self, function, *args, on_error):
        answer = function(*args) if self.answer is None else self.answer
        return dict.fromkeys(self.threads, answer)


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (FakeClient({}), "has no workers; start them"),
        (FakeClient({"a": 1, "b": 4}), "worker b has 4 threads, expected 1; .*--nthreads 1"),
        (
            FakeClient({"a": 1}, ModuleNotFoundError("data")),
            "cannot run this code .*folder: python",
        ),
        (FakeClient({"a": 1}, (workers.RECORD, False)), "does not see .*records: workers share"),
        (FakeClient({"a": 1}, (workers.RECORD - 1, True)), "another version"),
    ],
)
def test_workers_of_a_cluster_that_cannot_do_it_are_refused(tmp_path, client, message):
    with pytest.raises(ConfigError, match=message):
        clusters._check_workers(client, "tcp://host:1", tmp_path / "records")


def test_workers_of_a_cluster_that_can_do_it_are_counted(tmp_path):
    assert clusters._check_workers(FakeClient({"a": 1, "b": 1}), "x", tmp_path / "records") == 2


# ---- what is refused, what is shown


@pytest.mark.parametrize(
    "name", ["sources", "Prepare", "GEOMETRY", "rendering", "synthetic", "__pycache__"]
)
def test_folders_of_code_are_no_names_of_sets(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name!r} is a folder of code"):
        parse([str(tmp_path), "--name", name])


def test_torchrun_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun is for training: --workers"):
        parse(arguments(source, tmp_path))


def test_a_log_gets_a_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("utils.progress.time.monotonic", lambda: now[0])
    with Progress(1000, "shapes", done=100) as progress:
        for _ in range(900):
            now[0] += 0.125  # exact in binary
            progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "shapes: 340 of 1,000, 01:22 left"
    assert len(lines) == 3
