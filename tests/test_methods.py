"""The table of methods: what was chosen, what a training costs, runs in one process."""

import dataclasses
import io
import sys

import pytest
import torch
from test_results import row

import test as test_program
from models import load_model
from scripts import make_tables, methods, one_process
from scripts.choose_weight import choose, choose_run
from utils import results
from utils.checkpoint import read_model
from utils.device import peak_memory
from utils.errors import DataError

CPU = torch.device("cpu")


def tried(method, weights, overall, **changes):
    label = "-".join(word for word in weights.replace(" ", "").split(","))
    given = {"run": f"Set_methods_pointnet_{method}_choose_{label}", "split": "val"}
    given |= {"recipe": f"{weights}; sgd 0.1, batch 16", "overall": overall, "method": method}
    return row(protocol="last epoch, 0.2 of train held out", **(given | changes))


def result(word, weights, name="", seed=0, **changes):
    given = {"run": f"Set_methods_pointnet_{word}{name}_s{seed}", "seed": seed, "method": word}
    return row(**(given | {"recipe": f"{weights}; sgd 0.1, batch 16"} | changes))


ROWS = [
    tried("baseline", "task 0.1", 74.5),
    tried("baseline", "task 1", 38.25),
    tried("logits", "task 0.1 logits 0.9", 70.0),
    tried("logits", "task 0.1 logits 2.7", 76.0),
    tried("logits", "task 0.1 logits 9", 99.0, epochs=5),
    row(run="Set_squeezenet_s0", role="teacher", model="squeezenet1_0", method="-", points=0),
    row(run="Set_pointnet_pointmcd_s0", overall=88.0),
    result("baseline", "task 0.1", parameters=1000, memory=300.4, train_seconds=60.0),
    result("baseline", "task 0.1", seed=1, parameters=1000, memory=301.0, train_seconds=120.0),
    result("logits", "task 0.1 logits 2.7", parameters=251000, memory=512.0, train_seconds=180.0),
    result("logits", "task 0.1 logits 2.7", "_shuffled", method="logits, shuffled codes"),
    result("logits", "task 1 logits 2", "_shuffled_class", train_device="cuda: X", epochs=7),
]


def test_the_table_says_what_was_chosen_and_what_it_costs():
    rows = methods.annotate(make_tables.latest(results.frame(ROWS)))
    rows = rows[rows.split == "test"]
    head, _, *lines = make_tables.table(rows, "Set", "methods").splitlines()
    assert len({line.count("|") for line in [head, *lines]}) == 1
    titles = [title.strip() for title in head.split("|")[1:-1]]
    cells = [
        dict(zip(titles, map(str.strip, line.split("|")[1:-1]), strict=True)) for line in lines
    ]
    assert [cell["method"] for cell in cells] == [
        "-",
        "baseline",
        "logits",
        "logits",
        "logits, shuffled codes",
    ]
    tries, seconds, extra, memory = (
        "held-out accuracy of the weights that were tried",
        "seconds per epoch, by the baseline's",
        "parameters more than the baseline",
        "memory",
    )
    _, baseline, chosen, apart, control = cells
    assert baseline[tries] == "task 0.1: 74.5, task 1: 38.2"
    assert (baseline[seconds], baseline[extra], baseline[memory]) == ("1.00", "0", "301 MiB")
    assert chosen[tries] == control[tries] == "task 0.1 logits 0.9: 70.0, task 0.1 logits 2.7: 76.0"
    assert (chosen[seconds], chosen[extra], chosen[memory]) == ("2.00", "250,000", "512 MiB")
    assert (control[extra], control[memory]) == ("-", "-")  # a row of an older version
    assert (apart[tries], apart[seconds], apart[extra]) == ("-", "-", "-")
    usual = make_tables.table(rows, "Set")
    assert "88.0" in usual and "logits" not in usual
    with pytest.raises(DataError, match=r"no row for Set \(methods\)"):
        make_tables.table(rows[~rows.run.str.contains("methods")], "Set", "methods")


def test_weights_are_chosen_among_the_runs_of_one_method():
    rows = results.frame(ROWS)
    prefix = "Set_methods_pointnet_logits_choose_"
    assert choose_run(rows, "Set", "pointnet", 30, prefix) == "task0.1logits2.7"
    assert choose_run(rows, "Set", "pointnet", None, prefix) == "task0.1logits9"
    voted = tried("logits", "task 0.1 logits 0.9", 99.9)
    voted = dataclasses.replace(voted, protocol=f"{voted.protocol}, vote mean of 2 x 10 passes")
    equal = tried("logits", "task 0.1 logits 1", 76.0)
    rows = results.frame([equal, *ROWS, voted])
    assert choose_run(rows, "Set", "pointnet", 30, prefix) == "task0.1logits1"
    with pytest.raises(DataError, match="no run Set_methods_dgcnn_... of dgcnn"):
        choose_run(rows, "Set", "dgcnn", 30, "Set_methods_dgcnn_")
    with pytest.raises(DataError, match="no baseline of pointnet"):  # of the other tables
        choose(rows, "Set", "pointnet", 30)


def test_a_row_says_what_the_training_cost(workshop, distilled, tmp_path):
    table = tmp_path / "results.csv"
    test_program.main([str(distilled), "--results", str(table), "--pictures", str(tmp_path)])
    (found,) = results.read(table)
    network = load_model(distilled)
    counts = [sum(p.numel() for p in m.parameters()) for m in (network, network.heads)]
    assert found.parameters == counts[0] > counts[1] > 500_000  # the projection is one of them
    memory = read_model(distilled)["training"]["memory"]
    assert found.memory == pytest.approx(memory, abs=0.06)
    assert 100 < memory <= peak_memory(CPU)


def test_memory_on_a_cpu_is_that_of_the_process():
    before = peak_memory(CPU)
    held = torch.ones(2**28, dtype=torch.uint8)  # 256 MiB
    assert peak_memory(CPU) >= max(before, 256) and held[0] == 1


def lines_of(*jobs):
    return io.StringIO("".join(f"{name}\t{' && '.join(commands)}\n" for name, *commands in jobs))


def test_jobs_share_a_process_until_one_fails(tmp_path, monkeypatch, capsys):
    for name in "ab":
        results.append(tmp_path / f"{name}.csv", row())
    migrate = f"some python -m scripts.migrate_results {tmp_path}"
    jobs = lines_of(
        ("first", f"{migrate}/a.csv", f"{migrate}/b.csv"),
        ("second", f"{migrate}/none.csv", f"{migrate}/a.csv"),
        ("third", f"{migrate}/a.csv"),
    )
    monkeypatch.setattr(sys, "stdin", jobs)
    monkeypatch.setenv("PYTHON", "some python")
    assert one_process.main(["--logs", str(tmp_path / "logs")]) == 3
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{tmp_path}/b.csv: 0 rows changed"
    assert told[1] == f"failed: see {tmp_path}/logs/second.log"
    assert told[2].startswith("error: no table of results at")
    logs = {path.stem: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert set(logs) == {"first", "second"}
    assert logs["first"].count("rows changed") == 2
    assert "rows changed" not in logs["second"]
