"""The comparison with another commit: what runs, what counts, and how it goes on."""

import json
import re

import h5py
import pytest
from conftest import ROOT, run_program
from parse_line import parse_line

from data.bank import Bank
from data.storage import open_split
from scripts import compare_speed
from utils.errors import ConfigError, RunError

STAND_IN = """
import json, pathlib, sys
given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
if "curvenet.yaml" in sys.argv[1]:
    sys.exit("no such network")
folder = pathlib.Path(given["runs"]) / given["run.name"]
folder.mkdir()
rates = [1.0, 7.0, {rate}, {rate} + 2]
lines = [json.dumps({{"epoch": n, "throughput": rate}}) for n, rate in enumerate(rates)]
(folder / "log.jsonl").write_text("\\n".join(lines) + "\\n")
with open("calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
"""
TEMPLATE = "{encoder}.yaml bank={bank} runs={runs}"


@pytest.fixture
def arguments(workshop, tmp_path, monkeypatch) -> list[str]:
    """For two projects whose training says at once how fast it was."""
    for side, rate in (("base", 20), ("ours", 104)):
        (tmp_path / side).mkdir()
        (tmp_path / side / "train_student.py").write_text(STAND_IN.format(rate=rate))
    monkeypatch.setattr(compare_speed, "HERE", tmp_path / "ours")
    given = ["--base", str(tmp_path / "base"), "--json", str(tmp_path / "ratio.json")]
    given += ["--base-arguments", TEMPLATE, "--arguments", TEMPLATE, "--epochs", "4"]
    return [*given, "--data", "Tiny", "--root", str(workshop.root), "--device", "cpu"]


def calls(tmp_path, side: str) -> list[str]:
    return (tmp_path / side / "calls").read_text().splitlines()


def test_both_run_in_turns_and_the_later_epochs_count(tmp_path, arguments, capsys):
    compare_speed.main([*arguments, "--encoders", "pointnet,dgcnn"])
    printed = capsys.readouterr().out
    turns = re.findall(r"(\w+), (\w+), round (\d): 1 7", printed)
    expected = [(name, side) for name in ("pointnet", "dgcnn") for side in ("base", "ours")]
    assert turns == [(*one, number) for number in "12" for one in expected]
    assert "| pointnet | 21 | 105 | 5.00 |" in printed and "base: commit base, ours" in printed
    lines = [line.split()[3:-1] for side in ("base", "ours") for line in calls(tmp_path, side)]
    assert len(lines) == 8 and all(line == lines[0] for line in lines)
    assert "train.amp=bf16 train.epochs=4 train.eval_every=4" in " ".join(lines[0])


def test_it_goes_on_where_it_was_and_begins_anew_for_other_settings(tmp_path, arguments):
    arguments += ["--encoders", "pointnet", "--rounds"]
    compare_speed.main([*arguments, "2"])
    content = json.loads((tmp_path / "ratio.json").read_text())
    content["runs"] = content["runs"][:3]
    content["about"]["date"] = "yesterday"
    (tmp_path / "ratio.json").write_text(json.dumps(content))
    compare_speed.main([*arguments, "2"])
    assert [len(calls(tmp_path, side)) for side in ("base", "ours")] == [2, 3]
    compare_speed.main([*arguments, "1"])
    assert len(json.loads((tmp_path / "ratio.json").read_text())["runs"]) == 2
    assert [len(calls(tmp_path, side)) for side in ("base", "ours")] == [3, 4]


def test_a_run_that_fails_costs_its_own_figures_only(tmp_path, arguments, capsys):
    arguments += ["--encoders", "curvenet,pointnet", "--rounds", "1"]
    with pytest.raises(RunError, match="failed: curvenet, base, round 1; curvenet, ours, round 1"):
        compare_speed.main(arguments)
    printed = capsys.readouterr().out
    assert "ended with 1: no such network" in printed and "| pointnet | 21 | 105 |" in printed
    assert "| curvenet" not in printed
    with pytest.raises(ConfigError, match="has no train_student.py"):
        compare_speed.main([*arguments, "--base", str(tmp_path)])


def test_the_random_bank_is_one_of_the_first_version(workshop, tmp_path):
    """Which older commits read too."""
    compare_speed.random_bank(tmp_path / "bank.h5", "Tiny", workshop.root)
    bank, split = Bank(tmp_path / "bank.h5"), open_split("Tiny", "train", workshop.root)
    bank.check(split)
    with h5py.File(tmp_path / "bank.h5") as file:
        assert file.attrs["version"] == 1
    words = compare_speed.OURS.format(encoder="curvenet", bank="bank.h5", runs="runs").split()
    config = parse_line(["train_student.py", *words])
    assert (config.student.encoder, config.targets.bank) == ("curvenet", "bank.h5")
    assert config.run.dir == "runs"


@pytest.mark.slow
def test_a_project_is_as_fast_as_itself(workshop, tmp_path):
    command = ["-m", "scripts.compare_speed", "--base", str(ROOT), "--data", "Tiny"]
    command += ["--root", str(workshop.root), "--encoders", "pointnet", "--points", "128"]
    command += ["--rounds", "1", "--epochs", "2", "--amp", "none", "--device", "cpu"]
    command += ["--threads", "1", "--base-arguments", compare_speed.OURS]
    done = run_program(*command, "--json", str(tmp_path / "ratio.json"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| pointnet \| [\d,]+ \| [\d,]+ \| \d+\.\d\d \|", done.stdout)
