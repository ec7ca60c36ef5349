"""Votes over scaled copies of clouds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import test as test_program
from data.augment import vote_factors
from data.storage import open_split
from models import load_model
from utils import results
from utils.tasks import Task
from utils.tasks.shapes import Classification
from utils.tasks.voting import Vote


class Seen(nn.Module):
    """Logits from the largest coordinates; keeps what it saw."""

    fields, task = ("points",), "classification"

    def __init__(self):
        super().__init__()
        self.clouds = []

    def forward_batch(self, batch):
        self.clouds.append(batch["points"])
        return SimpleNamespace(logits=8 * batch["points"].amax(dim=1))  # three classes


def vote(network, repeats, seed=0):
    task = Classification(network, list("abc"), [])

    def draw(index, repeat):
        return vote_factors(index, repeat, seed, 9)

    return Vote(task, repeats, draw, shapes=4)


def test_a_vote_is_a_plain_pass_and_nine_whose_scalings_multiply_up():
    points = torch.rand(4, 30, 3, generator=torch.Generator().manual_seed(0))
    batch = {"points": points.clone(), "index": torch.tensor([7, 1, 4, 2])}
    network = Seen()
    found = vote(network, 2).compute(batch)["votes"]
    assert torch.equal(batch["points"], points)
    assert len(network.clouds) == 1 + 2 * 9  # the plain pass is the same in both
    expected = []
    for repeat in range(2):
        factors = vote_factors(batch["index"], repeat, 0, 9)
        assert factors.shape == (9, 4, 3)
        assert 0.85 <= factors.min() < 0.87 and 1.13 < factors.max() < 1.15
        cloud, total = points.clone(), (8 * points.amax(dim=1)).softmax(dim=1)
        for place in range(9):
            cloud *= factors[place].unsqueeze(1)
            torch.testing.assert_close(network.clouds[1 + 9 * repeat + place], cloud)
            total += (8 * cloud.amax(dim=1)).softmax(dim=1)
        expected.append(total.argmax(dim=1))
    assert torch.equal(found, torch.stack(expected, dim=1))


def test_what_is_drawn_belongs_to_the_shape_the_repeat_and_the_seed():
    some, fewer = torch.tensor([5, 9, 3]), torch.tensor([3, 5])
    drawn = vote_factors(some, 2, 1, 9)
    assert torch.equal(vote_factors(fewer, 2, 1, 9), drawn[:, [2, 0]])
    for other in (vote_factors(some, 3, 1, 9), vote_factors(some, 2, 2, 9)):
        assert (other != drawn).all()
    assert len(drawn.unique()) == drawn.numel()


def test_the_mean_of_the_repeats_is_reported_and_never_the_best():
    labels = np.array([0, 0, 0, 1, 2])
    votes = np.array([[0, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 2], [2, 0, 0]])
    task = vote(Seen(), 3)
    report = task.report({"label": labels, "votes": votes})
    each = (votes == labels[:, None]).mean(axis=0)
    assert report.columns["overall"] == pytest.approx(100 * each.mean())
    assert report.columns["deviation"] == pytest.approx(100 * each.std(ddof=1))
    recalls = [[(v[labels == c] == c).mean() for c in range(3)] for v in votes.T]
    assert report.columns["mean_class"] == pytest.approx(100 * np.mean(recalls))
    assert [line.split()[:3] for line in report.lines[1:]] == [
        ["a", "3", "66.7"],
        ["b", "1", "66.7"],
        ["c", "1", "33.3"],
    ]
    assert report.headline.endswith(", mean of 3 votes of 10 passes (deviation 40.00)")
    single = vote(Seen(), 1).report({"label": labels, "votes": votes[:, :1]})
    assert "deviation" not in single.columns


def test_the_row_and_the_files_of_a_vote_have_names_of_their_own(
    workshop, distilled, tmp_path, capsys
):
    table = tmp_path / "results.csv"
    common = [str(distilled), "--results", str(table), "--pictures", str(tmp_path)]
    test_program.main(common)
    for more in ([], ["--batch-size", "5"], ["--vote-seed", "1"]):
        test_program.main([*common, "--vote", "mean", "2", *more])
    plain, row, again, other = results.read(table)
    assert (plain.protocol, row.protocol) == (
        "last epoch",
        "last epoch, vote mean of 2 x 10 passes",
    )
    assert (row.overall, row.mean_class) == (again.overall, again.mean_class)
    assert row.deviation >= 0 and row.run == other.run == "distilled"
    assert "mean of 2 votes of 10 passes" in capsys.readouterr().out
    kept = np.load(tmp_path / "predictions" / "distilled_vote2.npz")
    assert kept["votes"].shape == (32, 2)
    assert (tmp_path / "distilled_Tiny_test_vote2.png").exists()
    student, split = load_model(distilled), open_split("Tiny", "test", workshop.root)
    points, index = torch.from_numpy(split.points()[:, :128]), torch.arange(32)
    shares, cloud = student(points).logits.softmax(dim=1), points
    for factors in vote_factors(index, 1, 1, 9):
        cloud = cloud * factors.unsqueeze(1)
        shares = shares + student(cloud).logits.softmax(dim=1)
    assert np.array_equal(kept["votes"][:, 1], shares.argmax(dim=1).numpy())
    assert np.load(tmp_path / "predictions" / "distilled.npz")["prediction"].shape == (32,)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vote", "best", "300"], "found --vote best 300, expected --vote mean N"),
        (["--vote", "mean", "0"], "found --vote mean 0"),
        (["--vote", "mean", "2", "--probe", "svm"], "no --probe, no --cloud"),
        (["--vote", "mean", "2", "--cloud", "a.ply"], "no --probe, no --cloud"),
    ],
)
def test_other_votes_are_refused(distilled, refused, words, said):
    assert said in refused(test_program.main, [distilled, *words], 2)


def test_networks_that_see_no_clouds_do_not_vote(workshop, refused, tmp_path):
    words = [workshop.teacher, "--vote", "mean", "2", "--results", tmp_path / "r.csv"]
    line = refused(test_program.main, words, 2)
    assert "found a network for classification of views" in line
    assert not (tmp_path / "r.csv").exists()
    parts = Task(SimpleNamespace(fields=("points",)), ["a"], [])
    parts.name = "segmentation"
    with pytest.raises(test_program.ConfigError, match="for segmentation of points"):
        Vote(parts, 1, None, 1)
