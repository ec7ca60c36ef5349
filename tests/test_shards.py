"""Preparing in shards: one after another, at once, on several disks, by torchrun."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT

from data.prepare import shard_notes
from data.prepare import workers as work
from data.prepare.__main__ import parse, prepare
from data.prepare.cache import Records, read_record, write_record
from data.prepare.shape import ShapeSettings
from data.prepare.shards import Shard, read_shard
from data.sources.folders import ShapeFile, Source, find_files
from utils.errors import ConfigError, DataError, RunError

FILES = ("report.json", "test.h5", "train.h5")
SHAPES = ["--shapes", "--shapes-train", "1", "--shapes-test", "1", "--name", "Set"]
SMALL = ["--points", "32", "--image-size", "8", "--workers", "1"]


def words(root, *more):
    return [*SHAPES, "--root", str(root), *SMALL, *more]


def run(root, *more):
    return prepare(parse(words(root, *more)))


def contents(root):
    assert sorted(path.name for path in (root / "Set").iterdir()) == sorted(FILES)
    return {name: (root / "Set" / name).read_bytes() for name in FILES}


def record_files(root):
    return sorted((root / "Set" / ".work" / "records").glob("*/[!.]*.record"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of the set as one process makes it; part labels included."""
    root = tmp_path_factory.mktemp("whole")
    run(root)
    return contents(root)


def test_shards_take_every_shape_once():
    shares = [Shard(number, 3).share(range(8)) for number in (1, 2, 3)]
    assert [list(share) for share in shares] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert all(place in Shard.of(place, 3).share(range(8)) for place in range(8))
    assert list(Shard(5, 5).share(range(3))) == []
    assert read_shard("12/12") == Shard(12, 12)


@pytest.mark.parametrize("text", ["0/3", "4/3", "-1/3", "1", "1/0", "a/b", "1/3/5", "1.5/3", ""])
def test_shards_that_are_none_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="expected i/n"):
        parse(words(tmp_path, f"--shard={text}"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard", "1/2", "--join"], "--shard and --join do not go together"),
        (["--shard", "1/2", "--overwrite"], "--overwrite is not for --shard"),
        (["--join", "--overwrite"], "--overwrite is not for --join"),
    ],
)
def test_what_would_disturb_other_shards_is_refused(tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        parse(words(tmp_path, *more))


def test_torchrun_goes_with_neither(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert parse(words(tmp_path)).launched == Shard(2, 2)
    for more in (["--shard", "1/2"], ["--join"], ["--overwrite"]):
        with pytest.raises(ConfigError, match="torchrun"):
            parse(words(tmp_path, *more))


def test_three_shards_joined_are_the_plain_set_byte_for_byte(tmp_path, whole):
    for number, left in ((2, 21), (1, 10), (3, 0)):
        line = run(tmp_path, "--shard", f"{number}/3")
        rest = f"{left} have no record" if left else "every shape has its record"
        assert f"of 32 shapes, those of shard {number}/3; {rest}" in line
        assert f"--join in the place of --shard {number}/3" in line
        assert "with --join" in line
        assert not (tmp_path / "Set" / "report.json").exists()
        assert len(record_files(tmp_path)) == 32 - left
    assert run(tmp_path, "--join").startswith("prepared 32 of 32")
    assert contents(tmp_path) == whole
    for more in (["--join"], ["--shard", "1/3"], []):
        assert run(tmp_path, *more).startswith("already prepared")
    assert contents(tmp_path) == whole


def test_the_plain_command_makes_what_the_shards_left(tmp_path, whole):
    run(tmp_path, "--shard", "2/3")
    stamps = {path: path.stat().st_mtime_ns for path in record_files(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.prepare.__main__.clear_up", lambda folder: None)
        run(tmp_path)
    assert len(record_files(tmp_path)) == 32
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert run(tmp_path).startswith("already prepared")
    assert contents(tmp_path) == whole


def test_shards_of_machines_with_disks_of_their_own_are_joined(tmp_path, whole):
    for number, name in ((1, "a"), (2, "b"), (3, "c")):
        run(tmp_path / name, "--shard", f"{number}/3")
    with pytest.raises(DataError, match=r"11 of 32 shapes have no record yet: 11 of --shard 2/3\."):
        run(tmp_path / "a", "--join", str(tmp_path / "c" / "Set"))
    others = [str(tmp_path / name / "Set") for name in "bc"]
    run(tmp_path / "a", "--join", *others)
    assert contents(tmp_path / "a") == whole
    assert len(record_files(tmp_path / "b")) == 11
    with pytest.raises(DataError, match="nothing to join"):
        run(tmp_path / "d", "--join", *others, str(tmp_path / "a" / "Set"))


def test_what_is_missing_is_named_with_its_shard(tmp_path):
    run(tmp_path, "--shard", "2/3")
    record_files(tmp_path)[0].unlink()
    message = r"^22 of 32 shapes .*: 11 of --shard 1/3, 1 of --shard 2/3, 10 of --shard 3/3\. "
    with pytest.raises(DataError, match=message):
        run(tmp_path, "--join")
    done = subprocess.run(
        [sys.executable, "-m", "data.prepare", *words(tmp_path, "--join")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: 22 of 32 shapes")
    assert not (tmp_path / "Set" / "report.json").exists()
    with pytest.raises(DataError, match=r"^32 of 32 shapes have no record yet\. Without --join"):
        run(tmp_path / "nothing", "--join")


def test_an_interrupted_shard_goes_on(tmp_path, whole, monkeypatch):
    run(tmp_path, "--shard", "1/2")
    made = []

    def die_at_the_fourth(*arguments):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(arguments)
        write(*arguments)

    write = work.work_on
    with monkeypatch.context() as patch:
        patch.setattr(work, "work_on", die_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "--shard", "2/2")
    stamps = {path: path.stat().st_mtime_ns for path in record_files(tmp_path)}
    assert len(stamps) == 16 + 3
    run(tmp_path, "--shard", "2/2")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    run(tmp_path, "--join")
    assert contents(tmp_path) == whole


def test_shards_of_other_settings_are_refused(tmp_path):
    run(tmp_path / "a", "--shard", "1/2")
    for more in (["--shard", "2/2"], ["--join"]):
        with pytest.raises(ConfigError, match=r"shard 1/2 of other settings: seed 0 \(now 1\);"):
            run(tmp_path / "a", "--seed", "1", *more)
    run(tmp_path / "b", "--shard", "2/2", "--shading", "depth")
    with pytest.raises(ConfigError, match=r"b/Set/.work holds shard 2/2 .*shading 'depth' \(now"):
        run(tmp_path / "a", "--join", str(tmp_path / "b" / "Set"))
    next((tmp_path / "a").rglob("1-of-2.json")).write_text("{")
    with pytest.raises(DataError, match="1-of-2.json is damaged"):
        run(tmp_path / "a", "--join")


def test_shards_of_another_source_are_refused(tmp_path):
    run(tmp_path, "--shard", "1/1")
    source = next(tmp_path.rglob("meshes-0-1-1")).rename(tmp_path / "source")
    options = [str(source), "--name", "Mine", *SMALL, "--root"]
    prepare(parse([*options, str(tmp_path / "a"), "--shard", "1/2"]))
    shape = next(source.glob("*/train/*.off"))
    shape.rename(shape.with_name("another.off"))
    prepare(parse([*options, str(tmp_path / "b"), "--shard", "2/2"]))
    with pytest.raises(ConfigError, match=r"holds shard 1/2 of other settings: meshes '\w+' \(now"):
        prepare(parse([*options, str(tmp_path / "b"), "--join", str(tmp_path / "a" / "Mine")]))


def launch(root, rank, count):
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(count)}
    return subprocess.Popen(
        [sys.executable, "-m", "data.prepare", *words(root)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_shards_at_the_same_time_do_not_disturb_each_other(tmp_path, whole):
    commands = [
        [sys.executable, "-m", "data.prepare", *words(tmp_path, "--shard", f"{number}/3")]
        for number in (1, 2, 2)  # the last two even make the same records
    ]
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for command in commands]
    for process in running:
        assert process.wait() == 0, process.stderr.read()
    run(tmp_path, "--shard", "3/3")
    run(tmp_path, "--join")
    assert contents(tmp_path) == whole


def test_torchrun_prepares_the_plain_set(tmp_path, whole):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, "--master_port=0", "-m", "data.prepare", *words(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "prepared 16 of 32 shapes, those of shard 2/2" in done.stdout
    assert "prepared 32 of 32 meshes" in done.stdout
    assert contents(tmp_path) == whole


def test_a_dead_process_neither_hangs_the_first_nor_passes_for_done(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with monkeypatch.context() as patch:
        patch.setattr(shard_notes, "SILENCE", 0.3)
        with pytest.raises(RunError, match="process 1 has not made .* no sign of life"):
            run(tmp_path)
    assert not (tmp_path / "Set" / "report.json").exists()
    other = launch(tmp_path, 1, 2)
    assert run(tmp_path).startswith("prepared 32 of 32")
    assert other.wait() == 0, other.stderr.read()
    assert contents(tmp_path) == whole


def test_a_shard_renews_its_note_while_it_works(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_notes, "BEAT", 0.01)
    with shard_notes.announced(tmp_path, Shard(2, 3), {}):
        note = next(tmp_path.rglob("2-of-3.json"))
        os.utime(note, (0, 0))
        end = time.monotonic() + 20
        while note.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert note.stat().st_mtime > 0


@pytest.mark.parametrize("dies_at", [None, 2500])
def test_silence_is_counted_from_the_last_sign_of_life(tmp_path, monkeypatch, dies_at):
    """By a clock that only sleeping moves; the one record that is missing comes after 5,000 s."""
    now = [0.0]

    class Clock:
        @staticmethod
        def monotonic():
            return now[0]

        @staticmethod
        def sleep(_):
            now[0] += 100
            if now[0] % 500 == 0 and (dies_at is None or now[0] <= dies_at):
                os.utime(note, (now[0], now[0]))

    class OneLate:
        @staticmethod
        def find(_):
            return "there" if now[0] > 5000 else None

    monkeypatch.setattr(shard_notes, "time", Clock)
    late = ShapeFile("late", tmp_path / "late.off", "class", "train")
    with shard_notes.announced(tmp_path, Shard(1, 2), {}):
        note = next(tmp_path.rglob("1-of-2.json"))
    waiting = (Source([late], ["class"], [], True), OneLate(), tmp_path, 2)
    if dies_at is None:
        shard_notes.wait_for_records(*waiting)
        assert now[0] == 5100
    else:
        with pytest.raises(RunError, match="process 0 has not made the record of late"):
            shard_notes.wait_for_records(*waiting)
        assert dies_at + shard_notes.SILENCE < now[0] <= dies_at + shard_notes.SILENCE + 200


def test_few_shapes_are_handed_out_at_a_time(tmp_path, monkeypatch):
    handed_out, made, counts = [], [], []

    class Counting(ThreadPoolExecutor):
        def __init__(self, workers, *_):
            super().__init__(workers)

        def submit(self, *arguments):
            handed_out.append(arguments)
            counts.append(len(handed_out) - len(made))
            return super().submit(*arguments)

    def finish_late(shape, *_):
        time.sleep(0.005)
        made.append(shape.id)

    run(tmp_path, "--shard", "1/1")
    source = find_files(next(tmp_path.rglob("meshes-0-1-1")), 0.2, 0)
    monkeypatch.setattr(work, "ProcessPoolExecutor", Counting)
    monkeypatch.setattr(work, "work_on", finish_late)
    records = Records(ShapeSettings(points=8), tmp_path / "records")
    work.run_work(source.shapes, records, 2)
    assert sorted(made) == [shape.id for shape in source.shapes]
    assert max(counts) <= 2 * work.AHEAD < len(source.shapes)


def make_record():
    return {
        "points": np.arange(12, dtype=np.float32).reshape(4, 3),
        "images": np.arange(50, dtype=np.uint8),
        "sizes": np.array([20, 30]),
        "part_names": np.array(["leg", "seat"]),
        "count": np.array(4),
        "none": np.zeros((0, 3), np.float16),
    }


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = make_record()
    write_record(tmp_path / "a.record", record)
    for names in (None, ("sizes", "count", "reason")):
        found = read_record(tmp_path / "a.record", names)
        assert found.keys() == record.keys() & (set(names) if names else record.keys())
        for name, array in found.items():
            np.testing.assert_array_equal(array, record[name])
            assert array.dtype == record[name].dtype


def test_damaged_records_are_refused_and_empty_ones_made_again(tmp_path, whole):
    path = tmp_path / "a.record"
    write_record(path, make_record())
    content = path.read_bytes()
    damages = [content[:-1], content + b"\0", b"{}\n", content[:20], b"[]\n", b"\xff\n"]
    # a header that promises more than there is
    damages.append(content.replace(b'"sizes", "<i8", [2', b'"sizes", "<i8", [9', 1))
    assert content not in damages
    for damaged in damages:
        path.write_bytes(damaged)
        for names in (None, ("sizes",)):
            with pytest.raises(RunError, match="a.record is damaged"):
                read_record(path, names)
    path.write_bytes(content[:-1] + b"\xff")
    with pytest.raises(RunError, match="checksum"):
        read_record(path)
    run(tmp_path, "--shard", "1/1")
    victim = record_files(tmp_path)[3]
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(RunError, match=f"{victim.name} is damaged .* remove it"):
        run(tmp_path, "--join")
    victim.write_bytes(b"")
    with pytest.raises(DataError, match=r"^1 of 32 shapes .*: 1 of --shard 1/1"):
        run(tmp_path, "--join")
    run(tmp_path)
    path.unlink()
    assert contents(tmp_path) == whole


def test_a_note_says_what_a_shard_prepares(tmp_path):
    run(tmp_path, "--shard", "1/2")
    note = next(tmp_path.rglob("1-of-2.json"))
    assert json.loads(note.read_text())["points"] == 32
