"""The benchmark: its figures are complete, and a form that is wrong is not timed."""

import json
from functools import partial

import pytest
import torch
from conftest import ROOT

from models.encoders import pointnet2
from models.encoders.curvenet_blocks import Walk
from models.layers import pointops
from scripts import bench, make_tables, profile_step
from scripts.benchmarks import measure, points, projection, report, students
from scripts.benchmarks.contest import TINY, Sizes
from scripts.benchmarks.inputs import clouds, labels
from scripts.reference import curvenet
from utils.errors import ConfigError, DataError, RunError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """The JSON of a run over all groups, tiny and with one student."""
    path = tmp_path_factory.mktemp("bench") / "bench_cpu.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "QUICK", TINY)
        patch.setattr(students, "NETWORKS", {"pointnet": students.NETWORKS["pointnet"]})
        arguments = ["--quick", "--rounds", "1", "--device", "cpu", "--threads", "1"]
        bench.main([*arguments, "--bare", "--json", str(path)])
    return path


@pytest.mark.slow
def test_the_figures_are_complete(figures):
    content = report.read(figures)
    assert content["quick"] and content["bare"]
    assert content["kernels"] in ("plain", "numba")
    assert [row["group"] for row in content["rows"]] == sorted(
        (row["group"] for row in content["rows"]), key=list(measure.GROUPS).index
    )
    assert {row["group"] for row in content["rows"]} == set(measure.GROUPS)
    for row in content["rows"]:
        assert row["shapes"] > 0 and row["size"]
        assert row["forms"]["ours"]["milliseconds"] > 0
        assert row["forms"]["ours"]["first_milliseconds"] > 0
        assert ("published" in row["forms"]) == ("training step" not in row["name"])
        if row["group"] == "projection":
            assert row["bytes_moved"] > 0
            assert 0 < report.floor_share(row) < 1
            assert row["forms"]["ours"]["memory_mib"] is not None


@pytest.mark.slow
def test_the_published_form_takes_a_turn_in_a_process_of_its_own():
    build = measure.GROUPS["projection"](TINY, CPU)["projection, float32"]
    with measure.published_apart("projection", "projection, float32", TINY) as apart:
        assert apart(2) > 0
    forms = measure.run_contest(build(), 1, CPU, lambda passes: 7.0)
    assert forms["published_bare"]["milliseconds"] == 7000
    row = {"forms": forms}
    assert report.ratio(row, "published_bare") == 7000 / forms["ours"]["milliseconds"]
    assert report.ratio(row) == forms["published"]["milliseconds"] / forms["ours"]["milliseconds"]


@pytest.mark.slow
def test_the_table_has_a_line_for_every_row(figures):
    content = report.read(figures)
    lines = report.table(content).splitlines()
    assert "kernels: " + content["kernels"] in lines[0] and "GB/s" in lines[0]
    assert "Small sizes" in lines[0]
    assert len({line.count("|") for line in lines[2:]}) == 1
    assert len(lines) == 4 + len(content["rows"])
    faster = report.ratio(content["rows"][0])
    assert f"| {faster:.1f} |" in lines[4]


@pytest.mark.slow
def test_the_tables_of_a_readme_are_filled(figures, tmp_path):
    (tmp_path / "bench_cpu.json").write_text(figures.read_text())
    readme = tmp_path / "README.md"
    region = "<!-- table {} speed -->\nold\n<!-- end of table -->\n"
    readme.write_text(region.format("bench_cpu") + region.format("bench_cuda"))
    columns = (ROOT / "expt" / "results.csv").read_text().splitlines()[0]
    (tmp_path / "results.csv").write_text(columns + "\n")
    arguments = ["--results", str(tmp_path / "results.csv"), "--into", str(readme)]
    make_tables.main(arguments)
    text = readme.read_text()
    assert "| kNN |" in text and "old" not in text
    assert "Not measured yet." in text.split("bench_cuda")[1]
    (tmp_path / "bench_cuda.json").write_text('{"rows": [{}]}')
    with pytest.raises(DataError, match="bench_cuda.json is no result"):
        make_tables.main(arguments)


@pytest.mark.slow
def test_a_table_of_speed_is_printed_by_name(figures, capsys):
    arguments = ["--results", str(figures.parent / "results.csv"), "--kind", "speed"]
    make_tables.main([*arguments, "--data", "bench_cpu"])
    assert "| farthest-point sampling |" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--data NAME"):
        make_tables.main(arguments)
    with pytest.raises(DataError, match="no benchmark"):
        make_tables.main([*arguments, "--data", "bench_tpu"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "damaged", ["", "[]", '{"rows": 3}', "no milliseconds"], ids=["empty", "list", "rows", "zero"]
)
def test_a_damaged_benchmark_is_refused(figures, tmp_path, damaged):
    if damaged == "no milliseconds":
        content = report.read(figures)
        content["rows"][0]["forms"]["ours"]["milliseconds"] = 0
        damaged = json.dumps(content)
    (tmp_path / "bench_cpu.json").write_text(damaged)
    arguments = [
        "--results",
        str(tmp_path / "results.csv"),
        "--kind",
        "speed",
        "--data",
        "bench_cpu",
    ]
    with pytest.raises(DataError, match="no result of python -m scripts.bench"):
        make_tables.main(arguments)


@pytest.mark.parametrize("program", [(bench, "--json"), (profile_step, "--output")])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(program, tmp_path):
    main, option = program[0].main, program[1]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/speed.* cannot be written"):
        main([option, str(tmp_path / "file" / "speed.json"), "--device", "cpu"])
    with pytest.raises(ConfigError, match="is a folder"):
        main([option, str(tmp_path), "--device", "cpu"])


def test_an_unknown_group_is_refused():
    with pytest.raises(ConfigError, match="--only names no group"):
        bench.main(["--only", ","])
    with pytest.raises(ConfigError, match="did you mean 'points'"):
        bench.main(["--only", "projection,point"])


def roll(function, shift):
    """``function``, whose result is moved along its last axis."""
    return lambda *arguments: function(*arguments).roll(shift, dims=-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "name", "place", "wrong"),
    [
        (projection, "projection, float32", (projection, "visible_max_pool"), 1),
        (projection, "projection, bf16", (projection, "visible_max_pool"), 1),
        (points, "farthest-point sampling", (pointops, "farthest_point_sample"), 1),
        (points, "ball query", (pointops, "ball_query"), 1),
        (points, "kNN", (pointops, "knn"), 1),
        (points, "kNN of features", (pointops, "knn"), 1),
        (points, "grouping", (pointops, "gather_rows"), 1),
        (points, "3-NN interpolation", (pointops, "interpolate_three_nn"), 1),
    ],
)
@pytest.mark.slow
def test_a_wrong_form_is_not_timed(group, name, place, wrong, monkeypatch):
    module, function = place
    right = group.contests(TINY, CPU)[name]()
    monkeypatch.setattr(module, function, roll(getattr(module, function), wrong))
    contest = group.contests(TINY, CPU)[name]()
    with pytest.raises(RunError, match="no time is reported"):
        measure.run_contest(contest, 1, CPU)
    monkeypatch.undo()
    right.check()


@pytest.mark.slow
def test_a_wrong_gradient_of_the_projection_is_not_timed(monkeypatch):
    def half(features, seen):
        return (pooled := pool(features, seen)).detach() + 0.5 * (pooled - pooled.detach())

    pool = projection.visible_max_pool
    monkeypatch.setattr(projection, "visible_max_pool", half)
    with pytest.raises(RunError, match="in the gradient"):
        projection.contests(TINY, CPU)["projection, float32"]().check()


@pytest.mark.slow
def test_a_student_with_other_neighbours_is_not_timed(monkeypatch):
    contest = students.contests(TINY, CPU)["pointnet2_ssg, fp + bp"]()
    contest.check()

    def other_balls(points, centres, radius, k):
        return pointops.ball_query(points, centres, 0.7 * radius, k)

    monkeypatch.setattr(pointnet2, "ball_query", other_balls)
    with pytest.raises(RunError, match="pointnet2_ssg"):
        contest.check()


def test_curves_go_where_the_published_ones_went():
    torch.manual_seed(0)
    theirs, ours = curvenet.Walk(8), Walk(8, curvenet.STEPS, released_momentum=True)
    x = torch.randn(2, 150, 8)
    ahead = torch.rand(2, 150, 150).argsort(dim=2)[..., : curvenet.K]
    starts = [torch.rand(2, 150).argsort(dim=1)[:, : curvenet.CURVES] for _ in range(2)]
    alike = students.follow(theirs, ours)
    expected = theirs(x.mT, ahead, starts[0]).permute(0, 2, 3, 1)
    # other weights and other starts: left to itself, it would go elsewhere
    torch.testing.assert_close(ours(x, ahead, starts[1]), expected)
    assert [picks.shape for picks in alike] == [(2, curvenet.CURVES)] * (1 + curvenet.STEPS)
    own = torch.stack(alike).double().mean(dim=(1, 2))
    assert 0.5 < own[0] < 0.9 and own[1:].max() < 0.3


@pytest.mark.slow
def test_curvenet_agrees_closely_with_its_walk_given(monkeypatch):
    torch.manual_seed(2)  # of these weights one pick of 4800 is another in double precision
    network = students.NETWORKS["curvenet"]().train()
    check = partial(students.check_student, "curvenet", network, clouds(2, 1024, CPU))
    check(labels(2, CPU))
    with monkeypatch.context() as patch:
        patch.setattr(students, "follow", lambda *networks: [torch.ones(1)])
        with pytest.raises(RunError, match="the logits by 4"):
            check(labels(2, CPU))
    monkeypatch.setattr(Walk, "pick", staticmethod(second_likeliest))
    with pytest.raises(RunError, match="of the picks of its walks are equal"):
        check(labels(2, CPU))


def second_likeliest(soft, candidates):
    chosen = soft.topk(2, dim=2).indices[..., 1:]
    return chosen, candidates.gather(2, chosen).squeeze(2)


def test_too_little_memory_is_noticed_first(monkeypatch):
    measured = []
    monkeypatch.setattr(bench, "prepare_process", lambda device: None)
    monkeypatch.setattr(bench, "measure", lambda *arguments: measured.append(arguments) or [])
    monkeypatch.setattr(bench, "free_memory", lambda device: 15 * 2**30)
    with pytest.raises(
        ConfigError, match="found 15.0 GiB .* --only points,assignment,students,loading"
    ):
        bench.main(["--device", "cpu"])
    with pytest.raises(ConfigError, match="use --quick, --bare$"):
        bench.main(["--device", "cpu", "--only", "projection"])
    assert not measured
    for arguments in (["--quick"], ["--bare"], ["--only", "loading"]):
        bench.main(["--device", "cpu", *arguments])
    assert len(measured) == 5 + 5 + 1


@pytest.mark.parametrize("bare", [[], ["--bare"]], ids=["as our programs", "bare"])
def test_the_process_has_our_settings_unless_it_is_bare(bare, monkeypatch, capsys):
    prepared = []
    monkeypatch.setattr(bench, "prepare_process", prepared.append)
    monkeypatch.setattr(bench, "measure", lambda *arguments: [])
    monkeypatch.setattr(bench, "check_memory", lambda *arguments: None)
    bench.main(["--device", "cpu", *bare])
    assert prepared == ([] if bare else [CPU])
    assert ("--bare" in capsys.readouterr().out) == bool(bare)


@pytest.mark.slow
def test_memory_is_that_of_the_form_alone():
    sizes = Sizes(projection=(8, 512, 128, 12))  # the repeated embeddings are 24 MiB
    name = "projection, float32"
    needed = {
        form: measure.memory("projection", name, form, sizes, CPU) for form in ("published", "ours")
    }
    assert needed["published"] > 48  # repeated, and multiplied
    assert 2 <= needed["ours"] < 12  # the gradient is 2 MiB


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("autograd::engine::evaluate_function: NativeBatchNormBackward0", "normalisation"),
        ("point_kernels::knn", "point operations"),
        ("point_kernels::visible_max_backward", "projection"),
        ("Optimizer.step#SGD.step", "optimiser"),
        ("aten::cross_entropy_loss", "loss"),
        ("point_kernels::pack_views", "projection"),
        ("point_kernels::knn_of_features", "point operations"),
        ("point_kernels::neighbour_max_backward", "pooling"),
        ("GeneratedBackwardFor_point_kernels_neighbour_mean_defaultBackward", "pooling"),
        ("NormAct", "normalisation"),
        ("autograd::engine::evaluate_function: NormActMaxBackward", "normalisation"),
        ("aten::_foreach_norm", "optimiser"),
        ("aten::add", None),
    ],
)
def test_operators_are_classified(name, kind):
    found = profile_step.classify(name)
    assert found is None if kind is None else found.startswith(kind)


@pytest.mark.slow
def test_the_profile_of_a_step(tmp_path, capsys):
    output = tmp_path / "profile.txt"
    arguments = ["--encoders", "pointnet2_ssg", "--batch", "2", "--points", "512", "--steps", "1"]
    arguments += ["--warm-up", "1", "--amp", "none", "--device", "cpu", "--threads", "1"]
    profile_step.main([*arguments, "--output", str(output)])
    text = output.read_text()
    assert text.strip() in capsys.readouterr().out.replace("\n\n\n", "\n\n")
    shares = {
        line[2:30].strip(): float(line.split()[-2]) for line in text.splitlines() if "%" in line
    }
    assert shares.keys() == {*profile_step.KINDS, profile_step.OTHER}
    assert sum(shares.values()) == pytest.approx(100, abs=1)
    assert shares["matrix products"] > 10
    assert shares["optimiser"] > 0 and shares["data"] > 0
    assert shares[profile_step.OTHER] < 30
    with pytest.raises(ConfigError, match="--encoders"):
        profile_step.main(["--encoders", "pointnetto"])
