"""The benchmark survives what fails in it, compares in full precision, has the rows it should."""

import os
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch

from scripts import bench, make_tables
from scripts.benchmarks import measure, report, students
from scripts.benchmarks.contest import FULL, TINY, Contest, expect
from utils.errors import ConfigError, RunError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def nothing(*arguments):
    """A form, or a check that is passed."""


def raises(error, after=0):
    """Does nothing ``after`` times, then raises ``error``."""
    calls = []

    def work(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise error

    return work


def contest(ours=nothing, check=nothing):
    return lambda: Contest("small", {"published": nothing, "ours": ours}, check, shapes=1)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run({name: build})`` measures contests of our own; ``run.path`` is the JSON."""

    def main(contests):
        monkeypatch.setitem(measure.GROUPS, "projection", lambda sizes, device: contests)
        arguments = ["--quick", "--rounds", "1", "--device", "cpu", "--only", "projection"]
        return bench.main([*arguments, "--json", str(main.path)])

    main.path = tmp_path / "bench_cpu.json"
    monkeypatch.setattr(measure, "SHORTEST", 0.0)  # one pass at a time
    monkeypatch.setattr(bench, "prepare_process", nothing)
    monkeypatch.setattr(bench, "can_measure_memory", lambda device: False)
    return main


def test_a_contest_that_fails_costs_its_own_row(run, capsys):
    on_disk = []

    def noting(build):
        def look_first():
            on_disk.append(len(report.read(run.path)["rows"]) if run.path.exists() else 0)
            return build()

        return look_first

    contests = {
        "first": contest(),
        "built": raises(MemoryError("no room\nfor a | of 3 GiB")),
        "checked": contest(check=partial(expect, False, "checked", "by 6 %")),
        "timed": contest(ours=raises(RuntimeError("too" + 100 * " long"), after=2)),
        "last": contest(),
    }
    with pytest.raises(RunError) as failed:
        run({name: noting(build) for name, build in contests.items()})
    assert str(failed.value) == "3 of 5 contests failed: built; checked; timed"
    assert on_disk == [0, 1, 2, 3, 4]
    content = report.read(run.path)
    errors = {row["name"]: row.get("error") for row in content["rows"]}
    assert errors["first"] is errors["last"] is None
    assert errors["built"] == "MemoryError: no room for a | of 3 GiB"
    assert errors["checked"].startswith("checked: ours and the published form differ, by 6 %")
    assert errors["timed"].startswith("RuntimeError: too long") and len(errors["timed"]) <= 200
    assert content["finished"] and content["rows"][4]["forms"]["ours"]["milliseconds"] > 0
    said = capsys.readouterr()
    assert r"| built | failed: MemoryError: no room for a \| of 3 GiB | - |" in said.out
    assert (
        len({line.replace(r"\|", "").count("|") for line in said.out.strip().splitlines()[-5:]})
        == 1
    )
    assert "Traceback" in said.err and "RunError" not in said.err  # where a defect is ours


def test_an_interrupted_benchmark_leaves_what_it_has(run, capsys):
    contests = {"first": contest(), "second": contest(), "third": raises(KeyboardInterrupt())}
    assert run(contests) == 130
    said = capsys.readouterr()
    assert "interrupted after 2 contests" in said.err and "| second |" in said.out
    results = str(run.path.parent / "results.csv")
    make_tables.main(["--results", results, "--kind", "speed", "--data", "bench_cpu"])
    table = capsys.readouterr().out
    assert "| second | small |" in table and "third" not in table and "Not finished" in table


def test_the_same_command_goes_on_where_it_was_interrupted(run, capsys, monkeypatch):
    first = raises(MemoryError("measured again"))
    run.path.write_text("of something else")
    run({"first": contest(), "second": raises(KeyboardInterrupt())})
    assert run({"first": first, "second": contest(), "third": raises(KeyboardInterrupt())}) == 130
    assert run({"first": first, "second": first, "third": contest()}) == 0
    content = report.read(run.path)
    assert content["finished"]
    assert [row["name"] for row in content["rows"]] == ["first", "second", "third"]
    run({"first": contest(), "second": raises(KeyboardInterrupt())})  # a finished one is replaced
    monkeypatch.setattr(bench, "machine", lambda device: measure.machine(device) | {"commit": "b"})
    with pytest.raises(RunError, match="1 of 2 contests failed: first"):
        run({"first": first, "second": contest()})  # other code


def test_the_times_outlive_a_failure_beside_them(run, capsys, monkeypatch):
    monkeypatch.setattr(bench, "can_measure_memory", lambda device: True)
    monkeypatch.setattr(bench, "memory", raises(OSError("no such process"), after=1))
    apart = raises(BrokenProcessPool("killed"), after=1)
    monkeypatch.setattr(bench, "published_apart", lambda *about: nullcontext(timed(apart)))
    with pytest.raises(RunError) as failed:
        run({"first": contest()})
    words = "memory of ours, times of published_bare"
    assert str(failed.value) == f"1 of 1 contests failed: first ({words})"
    forms = report.read(run.path)["rows"][0]["forms"]
    assert forms["ours"]["milliseconds"] > 0
    assert forms["ours"]["memory_error"] == "OSError: no such process"
    assert forms["published_bare"]["error"] == "BrokenProcessPool: killed"
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("| first | small | failed | ") and line.count("failed") == 2


def timed(work):
    """``work`` as a timer: a second a pass."""
    return lambda passes: work() or 1.0


@pytest.mark.slow
def test_what_happens_in_another_process_is_heard_of():
    with pytest.raises(BrokenProcessPool), measure.fresh_process() as process:
        process.submit(os._exit, 9).result(timeout=60)
    elsewhere = measure.published_apart("projection", "no such contest", TINY)
    with pytest.raises(KeyError, match="no such contest"), elsewhere as apart:
        apart(1)


@pytest.mark.parametrize("passed", [True, False])
def test_forms_are_compared_in_full_precision_and_timed_as_trained(passed, monkeypatch):
    monkeypatch.setattr(measure, "SHORTEST", 0.0)
    seen = []

    def look(form):
        products = torch.get_float32_matmul_precision()
        seen.append((form, products, torch.backends.cudnn.allow_tf32))

    def check():
        look("check")
        expect(passed, "forms", "a little")

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        timed = Contest("small", {"ours": partial(look, "ours")}, check, shapes=1)
        if passed:
            measure.run_contest(timed, 2, CPU)
        else:
            with pytest.raises(RunError):
                measure.run_contest(timed, 2, CPU)
        look("after")
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    ours, after = ("ours", "high", True), ("after", "high", True)
    assert seen == [ours, ours, ("check", "highest", False), *2 * passed * [ours], after]


def test_training_steps_have_rows_of_all_batches():
    sizes = bench.choose_sizes(bench.parse([]), CUDA)
    assert sizes == replace(FULL, batches=(16, 24, 64))
    step = "pointnet, training step, distilled, "
    names = [name.removeprefix(step) for name in students.contests(sizes, CUDA) if step in name]
    bf16 = ["bf16, B={}", "bf16, CUDA graph, B={}"]
    expected = ["float32, B=16", "float32, CUDA graph, B=16"]
    assert names == expected + [title.format(b) for b in (16, 24, 64) for title in bf16]
    assert bench.choose_sizes(bench.parse([]), CPU).batches == (16,)
    assert bench.choose_sizes(bench.parse(["--batches", "24,16,24"]), CPU).batches == (24, 16)
    assert bench.choose_sizes(bench.parse(["--quick"]), CUDA).batches == (2,)
    asked = students.contests(bench.choose_sizes(bench.parse(["--batches", "3"]), CPU), CPU)
    assert [name for name in asked if step in name] == [f"{step}float32, B=3", f"{step}bf16, B=3"]


@pytest.mark.parametrize("batches", ["", "0", "-4", "16,,24", "sixteen", "1.5"])
def test_batches_that_are_none_are_refused(batches):
    with pytest.raises(ConfigError, match="--batches .*expected whole numbers above 0"):
        bench.main(["--device", "cpu", f"--batches={batches}"])


@pytest.mark.slow
def test_a_training_step_of_another_batch_is_measured():
    sizes = replace(TINY, batches=(3,))
    name = "pointnet, training step, distilled, float32, B=3"
    assert students.contests(sizes, CPU)[name]().shapes == 3
    assert measure.memory("students", name, "ours", sizes, CPU) > 1
