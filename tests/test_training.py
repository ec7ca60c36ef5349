"""The programs together: train, resume, several processes, export, test, tables."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, TEACHER, prepare_tiny, run_program, slow_if

import export_teacher
import test as test_program
import train_student
import train_teacher
from data.augment import augment_points
from data.bank import Bank
from data.batches import training_batches
from data.datasets import ShapeSet
from data.storage import open_split
from data.subsets import Subset
from models import load_model
from models.objective import Objective, wanted_fields
from models.students import build_student
from models.terms import active_terms, with_terms
from scripts import make_tables, overview
from utils import results
from utils.checkpoint import read_model
from utils.config import load_config
from utils.device import seed_everything
from utils.engine import predict
from utils.errors import ConfigError, DataError, RunError
from utils.optim import build_optimizer, learning_rate
from utils.run import Run
from utils.settings import PointDataSettings, StudentConfig, TargetSettings

BASES = {"student", "partseg_student"}  # recipes that are only a parent
RECIPES = {path.stem for path in (ROOT / "scripts/configs/recipes").glob("*.yaml")} - BASES


def same_weights(one: Path, other: Path) -> bool:
    a, b = (weights_of(path) for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Of the network and, where there are any, of the heads that were trained beside it."""
    content = read_model(path)
    heads = content["heads"].items()
    return content["model"] | {
        f"heads.{term}.{name}": value
        for term, head in heads
        for name, value in head["state"].items()
    }


@pytest.mark.filterwarnings("error:.*lr_scheduler")
@pytest.mark.parametrize(
    "options",
    [(), slow_if(True, ("optim.name=adamw", "optim.schedule=step", "optim.warmup_epochs=1"))],
)
def test_an_interrupted_run_goes_on_to_the_same_weights(workshop, distilled, monkeypatch, options):
    whole, name = distilled, f"parts_{len(options)}"
    if options:
        train_student.main(workshop.student_arguments("whole", *options))
        whole = workshop.student("whole")
    save = Run.save_state

    def save_and_stop(run, state):
        save(run, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "save_state", save_and_stop)
        train_student.main(workshop.student_arguments(name, *options))
    assert not workshop.student(name).exists()
    train_student.main(workshop.student_arguments(name, *options))
    assert same_weights(whole, workshop.student(name))
    lines = (workshop.folder / "runs" / name / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


at_other_moments = pytest.mark.stress


@pytest.mark.slow
@pytest.mark.parametrize(
    "epochs_before_kill",
    [2, pytest.param(0, marks=at_other_moments), pytest.param(3, marks=at_other_moments)],
)
def test_a_killed_training_ends_with_the_same_weights(workshop, epochs_before_kill):
    undisturbed = workshop.student("undisturbed")
    if not undisturbed.exists():
        train_student.main(workshop.student_arguments("undisturbed", "train.epochs=4"))
    name = f"killed_{epochs_before_kill}"
    arguments = workshop.student_arguments(name, "train.epochs=4")
    log = workshop.folder / "runs" / name / "log.jsonl"
    process = subprocess.Popen(
        [sys.executable, "train_student.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        done = len(log.read_text().splitlines()) if log.exists() else 0
        if done >= epochs_before_kill and log.parent.exists():
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.wait()
    train_student.main(arguments)
    assert same_weights(workshop.student(name), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "delay",
    [0.05, pytest.param(0.0, marks=at_other_moments), pytest.param(0.5, marks=at_other_moments)],
)
def test_a_killed_export_ends_with_the_same_bytes(workshop, tmp_path, delay):
    output = tmp_path / "bank.h5"
    arguments = [
        str(workshop.teacher),
        "--output",
        str(output),
        "--threads",
        "1",
        "--batch-size",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT_ALOUD, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.kill()
    process.wait()
    assert not output.exists() or Bank(output)
    export_teacher.main([*arguments[:-2], "--overwrite"])
    assert output.read_bytes() == workshop.bank.read_bytes()


EXPORT_ALOUD = """
import sys, export_teacher
start = export_teacher.export
def export(*arguments):
    print("started", flush=True)
    start(*arguments)
export_teacher.export = export
export_teacher.main(sys.argv[1:])
"""


def test_another_configuration_does_not_continue_a_run(workshop, distilled):
    with pytest.raises(ConfigError, match=r"optim.lr: found 0.05, expected 0.01"):
        train_student.main(workshop.student_arguments("distilled", "optim.lr=0.01"))
    assert read_model(distilled)["config"]["optim"]["lr"] == 0.05


@pytest.mark.parametrize("begun", ["auto", "none"])
def test_a_run_keeps_its_precision_on_another_machine(workshop, monkeypatch, begun):
    arguments = workshop.student_arguments(f"moved_{begun}", "train.epochs=1")
    monkeypatch.setattr("utils.run.computes_bf16", lambda device: False)
    train_student.main([*arguments, f"train.amp={begun}"])
    before = workshop.student(f"moved_{begun}").read_bytes()
    monkeypatch.setattr("utils.run.computes_bf16", lambda device: True)
    train_student.main([*arguments, "train.amp=auto"])
    assert workshop.student(f"moved_{begun}").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_is_restarted_takes_its_settings_and_precision_anew(workshop, monkeypatch):
    arguments = workshop.student_arguments("restarted", "train.epochs=1")
    train_student.main(arguments)
    monkeypatch.setattr("utils.run.computes_bf16", lambda device: True)
    train_student.main([*arguments, "train.amp=auto", "optim.lr=0.01", "run.overwrite=true"])
    config = read_model(workshop.student("restarted"))["config"]
    assert (config["optim"]["lr"], config["train"]["amp"]) == (0.01, "bf16")


def test_a_run_that_is_finished_keeps_its_checkpoint(workshop, distilled):
    before = distilled.read_bytes()
    train_student.main(workshop.student_arguments("distilled"))
    assert distilled.read_bytes() == before


@pytest.fixture(scope="module")
def baseline(workshop) -> Path:
    train_student.main(workshop.student_arguments("baseline", "terms.alignment.weight=0"))
    return workshop.student("baseline")


def test_weight_zero_is_the_plain_baseline(workshop, baseline):
    arguments = workshop.student_arguments("plain", "targets.bank=null", "method=mine")
    terms = "terms={transform: {weight: 0.001}, task: {weight: 0.1}}"
    train_student.main([*arguments, terms])
    plain = workshop.student("plain")
    assert same_weights(baseline, plain)
    for path in (baseline, plain):
        content = read_model(path)
        assert content["training"]["bank"] is None and content["heads"] == {}
        assert content["training"]["method"] == ["baseline"]
    assert list(content["config"]["terms"]) == ["transform", "task"]


def test_distillation_changes_the_encoder_and_reads_the_right_codes(workshop, distilled, baseline):
    train_student.main(workshop.student_arguments("shuffled", "targets.shuffle=all"))
    for other in (baseline, workshop.student("shuffled")):
        assert not same_weights(distilled, other)
    split = open_split("Tiny", "train", workshop.root)
    shapes = ShapeSet(
        Subset(split, np.array([17])),
        {"points", "visibility", "view_codes"},
        PointDataSettings(name="Tiny", points=64),
        torch.device("cpu"),
        TargetSettings(bank=str(workshop.bank)),
    )
    with h5py.File(workshop.bank) as file:
        row = [item.decode() for item in file["ids"]].index(split.ids[17])
        expected = file["view_codes"][row]
    batch = next(shapes.evaluation(1))
    assert np.array_equal(batch["view_codes"][0].numpy(), expected.astype(np.float32))
    assert batch["visibility"].shape == (1, 64, 12)
    assert batch["points"].shape == (1, 64, 3)


def test_the_student_that_is_kept_is_ready_to_use(workshop, distilled):
    student = load_model(distilled)
    assert not student.training
    assert len(student.classes) == 16
    seen = torch.ones(2, 100, 3, dtype=torch.bool)
    # it can still say what a view would be coded as
    assert student(torch.rand(2, 100, 3), visibility=seen).view_codes.shape == (2, 3, 512)
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert student(torch.rand(2, 100, 3)).logits.shape == (2, 16)
    teacher = load_model(workshop.teacher)
    out = teacher(torch.randint(0, 256, (2, 12, 1, 32, 32), dtype=torch.uint8))
    assert out.view_codes.shape == (2, 12, 512)
    assert out.logits.shape == (2, 16)


def test_exported_codes_are_the_teachers(workshop):
    teacher, bank = load_model(workshop.teacher), Bank(workshop.bank)
    split = open_split("Tiny", "test", workshop.root)
    out = teacher(torch.from_numpy(split.views(5))[None, :, None])
    codes = bank.read("view_codes", bank.locate([split.ids[5]]))[0]
    np.testing.assert_allclose(codes, out.view_codes[0].numpy(), rtol=1e-3, atol=1e-3)
    assert len(bank.ids) == 80
    assert bank.provenance["recipe_hash"] == split.recipe_hash


def test_the_table_has_a_row_for_each_test_and_counts_a_seed_once(
    workshop, distilled, tmp_path, capsys
):
    table, copy = tmp_path / "results.csv", tmp_path / "copy.pth"
    copy.write_bytes(distilled.read_bytes())
    common = ["--results", str(table), "--pictures", str(tmp_path), "--device", "cpu"]
    test_program.main([str(distilled), *common])
    test_program.main([str(workshop.teacher), *common])
    test_program.main([str(copy), *common])
    rows = results.read(table)
    assert [row.role for row in rows] == ["student", "teacher", "student"]
    assert rows[0].overall == rows[2].overall
    student = load_model(distilled)
    split = open_split("Tiny", "test", workshop.root)
    logits = student(torch.from_numpy(split.points()[:, :128])).logits
    right = (logits.argmax(dim=1).numpy() == split.labels).mean()
    assert rows[0].overall == pytest.approx(100 * right, abs=1e-3)
    assert (tmp_path / "distilled_Tiny_test.png").stat().st_size > 1000
    make_tables.main(["--results", str(table)])
    printed = capsys.readouterr().out
    assert printed.count("| pointnet, 128 points | pointmcd |") == 1 and "±" not in printed
    overview.main([str(distilled), "--output", str(tmp_path / "overview.png")])
    assert (tmp_path / "overview.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_validation_split_is_held_out(workshop, tmp_path):
    train_student.main(workshop.student_arguments("held", "protocol.val_fraction=0.34"))
    path = workshop.student("held")
    common = ["--results", str(tmp_path / "r.csv"), "--pictures", str(tmp_path)]
    test_program.main([str(path), "--split", "val", *common])
    test_program.main([str(path), "--split", "train", *common])
    rows = results.read(tmp_path / "r.csv")
    assert [row.shapes for row in rows] == [16, 32]
    assert rows[0].protocol == "last epoch, 0.34 of train held out"


def test_a_loss_that_is_not_finite_stops_the_run(workshop):
    with pytest.raises(RunError, match="not finite in epoch"):
        train_student.main(
            workshop.student_arguments("broken", "optim.lr=1e30", "optim.min_lr=1e30")
        )


def test_weights_that_the_last_step_broke_are_not_kept(workshop):
    arguments = [
        "optim.lr=3e38",
        "optim.min_lr=3e38",
        "terms.task.weight=1e6",
        "train.epochs=1",
        "train.batch_size=48",
    ]
    with pytest.raises(RunError, match="not finite after epoch 1; the state after epoch 0 is kept"):
        train_student.main(workshop.student_arguments("broken_last", *arguments))
    assert not workshop.student("broken_last").exists()


@pytest.mark.slow
def test_gradient_clipping_bounds_the_step(workshop):
    steep = [
        "train.epochs=1",
        "optim.momentum=0",
        "optim.weight_decay=0",
        "optim.lr=1",
        "optim.min_lr=1",
    ]
    for clip in ("1e-9", "null"):
        clipped = f"optim.clip_grad={clip}"
        train_student.main(workshop.student_arguments(f"clip_{clip}", *steep, clipped))
    start = read_model(workshop.student("clip_1e-9"))["model"]
    moved = read_model(workshop.student("clip_null"))["model"]
    torch.manual_seed(0)
    weights = [name for name in start if name.endswith("weight")]
    assert any((start[name] - moved[name]).abs().max() > 1e-2 for name in weights)


def two_process_reference(workshop, epochs: int) -> dict[str, torch.Tensor]:
    """What DistributedDataParallel promises, step by step in one process: each half of a batch
    through its own copy (with its own batch statistics, which ``train.sync_norm=false`` asks for),
    gradients averaged, buffers of rank 0."""
    config = load_config(with_terms(StudentConfig), workshop.student_arguments("reference"))
    split = open_split("Tiny", "train", workshop.root)
    seed_everything(config.train.seed)
    student = build_student("pointnet", 16)
    terms = active_terms(config.terms)

    def shapes(index: torch.Tensor) -> ShapeSet:
        found = Subset(split, index.numpy()), wanted_fields(terms, student)
        return ShapeSet(*found, config.data, torch.device("cpu"), config.targets)

    objective = Objective(student, terms, shapes(torch.arange(48)).fields)
    optimizer = build_optimizer(config.optim, objective)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optim, epoch, epochs)
        for index in training_batches(np.arange(48), 16, 0, epoch):
            gradients = []
            buffers = None
            objective.train()
            for half in index.view(2, 8):
                start = {name: value.clone() for name, value in objective.named_buffers()}
                batch = next(shapes(half).evaluation(8))
                batch = augment_points(batch, config.augment, 0, epoch)
                objective.zero_grad()
                objective.total(objective(batch).losses).backward()
                gradients.append([p.grad.clone() for p in objective.parameters()])
                if buffers is None:
                    buffers = {name: value.clone() for name, value in objective.named_buffers()}
                for name, value in objective.named_buffers():
                    value.copy_(start[name])
            for name, value in objective.named_buffers():
                value.copy_(buffers[name])
            for parameter, *pair in zip(objective.parameters(), *gradients, strict=True):
                parameter.grad = (pair[0] + pair[1]) / 2
            optimizer.step()
    return student.state_dict()


@pytest.fixture(scope="module")
def two_processes(workshop, distilled, tmp_path_factory) -> Path:
    """Every program in two processes: students, a teacher, a bank and a table in this folder."""
    folder = tmp_path_factory.mktemp("two")
    without_task = [
        "terms.task.weight=0",
        "train.epochs=1",
    ]  # more than one step, no gradient in the head
    teacher = [*TEACHER, "data.name=Tiny", f"data.root={workshop.root}", "run.name=teacher_two"]
    teacher += [f"run.dir={workshop.folder}/runs", f"run.checkpoints={workshop.folder}/ckpt"]
    common = ["--device", "cpu", "--threads", "1"]
    export = [str(workshop.teacher), "--output", str(folder / "bank.h5"), *common]
    test = [str(distilled), "--results", str(folder / "results.csv"), "--pictures", str(folder)]
    commands = [
        ("train_student", workshop.student_arguments("two", "train.sync_norm=false")),
        ("train_student", workshop.student_arguments("two_without_task", *without_task)),
        ("train_teacher", [*teacher, "run.threads=1", "run.device=cpu"]),
        ("export_teacher", export),
        ("test", [*test, *common]),
    ]
    done = run_program("tests/run_mains.py", json.dumps(commands), str(folder), processes=2)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_two_processes_train_like_one(workshop, two_processes):
    printed = (two_processes / "printed.txt").read_text()
    assert printed.count("student written to") == 2  # of two students, each by one process
    found = read_model(workshop.student("two"))
    expected = two_process_reference(workshop, epochs=2)
    for name, value in found["model"].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)
    assert found["training"]["processes"] == 2
    test = open_split("Tiny", "test", workshop.root)
    logits = load_model(workshop.student("two"))(torch.from_numpy(test.points()[:, :128])).logits
    right = 100 * (logits.argmax(dim=1).numpy() == test.labels).mean()
    assert found["training"]["metrics"]["eval/overall"] == pytest.approx(right)
    for role, name in (("student", "two_without_task"), ("teacher", "teacher_two")):
        assert (workshop.folder / "ckpt" / role / f"{name}.pth").exists()


@pytest.mark.slow
def test_two_processes_export_like_one(workshop, two_processes):
    for name in ("view_codes", "codes", "view_logits", "logits"):
        banks = Bank(workshop.bank), Bank(two_processes / "bank.h5")
        one, two = (bank.read(name, np.arange(80)) for bank in banks)
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_two_processes_test_like_one(distilled, two_processes):
    table = str(two_processes / "results.csv")
    arguments = ["--results", table, "--pictures", str(two_processes), "--device", "cpu"]
    test_program.main([str(distilled), *arguments])
    rows = results.read(table)
    assert len(rows) == 2
    assert rows[0].overall == rows[1].overall


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_trains_two_steps(workshop, request, recipe):
    """With its own augmentation, schedule and losses, on the tiny set."""
    name = f"recipe_{recipe}"
    arguments = [f"scripts/configs/recipes/{recipe}.yaml", "data.name=Tiny", f"run.name={name}"]
    arguments += [f"data.root={workshop.root}", "protocol.val_fraction=0.67", "train.epochs=1"]
    arguments += ["train.batch_size=8", "run.device=cpu", "run.threads=1"]
    arguments += [f"run.dir={workshop.folder}/runs", f"run.checkpoints={workshop.folder}/ckpt"]
    if recipe == "pointcmt_generator":
        kind, main = "teacher", train_teacher.main
        arguments += [f"targets.bank={workshop.bank}", "data.points=128"]
    elif recipe.startswith(("teacher", "pointcmt_")):
        kind, main, arguments = "teacher", train_teacher.main, [*arguments, "teacher.weights=none"]
        arguments += [f"data.size={16 if 'partseg' in recipe or 'auto' in recipe else 32}"]
    else:
        kind, main, arguments = "student", train_student.main, [*arguments, "data.points=512"]
        arguments += [f"targets.bank={workshop.bank}", "train.pictures=false"]
    if recipe == "pointcmt":
        stages = request.getfixturevalue("stages")
        arguments += [f"targets.bank={stages.bank}", f"terms.feature.generator={stages.generator}"]
    main(arguments)
    training = read_model(workshop.folder / "ckpt" / kind / f"{name}.pth", kind)["training"]
    assert training["metrics"]


def test_predictions_do_not_depend_on_the_batch_size(workshop, distilled):
    student = load_model(distilled)
    split = open_split("Tiny", "test", workshop.root)
    data = PointDataSettings(name="Tiny", points=128)
    subset = Subset(split, np.arange(len(split.ids)))
    shapes = ShapeSet(subset, {"points"}, data, torch.device("cpu"))

    def compute(batch):
        return {"logits": student(batch["points"]).logits}

    one = predict(student, shapes.evaluation(5), compute)
    other = predict(student, shapes.evaluation(32), compute)
    assert one["index"].tolist() == list(range(32))
    np.testing.assert_allclose(one["logits"], other["logits"], rtol=1e-4, atol=1e-5)


def test_a_bank_that_does_not_fit_is_refused(workshop, tmp_path):
    fewer = ["--shapes-train", "1", "--shapes-test", "1", "--image-size", "16"]
    prepare_tiny(workshop.root, "Other", "--seed", "1", "--recipe", "dual16", *fewer)
    with pytest.raises(DataError) as caught:
        train_student.main(workshop.student_arguments("refused", "data.name=Other"))
    message = str(caught.value)
    for part in (
        "data set 'Tiny', expected 'Other'",
        "view recipe",
        "train shapes",
        "12 views, expected 16",
    ):
        assert part in message
    assert not (workshop.folder / "runs" / "refused").exists()
