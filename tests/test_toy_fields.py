"""What terms ask for beside the usual: fields, views, copies and passes of their own."""

import pytest
import torch
import torch.nn.functional as F
from helpers import settle
from torch import nn

import train_student
from models import load_model
from models.objective import Objective, pack_heads, wanted_fields
from models.students import build_student
from models.terms import register
from models.terms.base import Term
from utils.checkpoint import read_model
from utils.errors import ConfigError
from utils.fields import Field

pytestmark = pytest.mark.usefixtures("own_terms")
ALONE = ["terms.alignment.weight=0", "train.epochs=1"]


def wants(term_name: str, **fields: tuple | None) -> type[Term]:
    """A term that only wants fields, of a shape."""

    class Wants(Term):
        name = term_name
        learns_from = "teacher"

        @classmethod
        def reads(cls, settings, network):
            return fields

        def forward(self, batch, output):
            return output.global_feature.mean()

    return Wants


def refuse(workshop, refused, *arguments: str) -> str:
    """Train over an earlier run, which is to be thrown away only for one that begins."""
    folder = workshop.folder / "runs" / "kept"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("{}")
    arguments = workshop.student_arguments("kept", "run.overwrite=true", *arguments)
    line = refused(train_student.main, arguments, 2)
    assert [path.name for path in folder.iterdir()] == ["log.jsonl"]
    return line


def test_codes_of_another_width_are_refused(workshop, refused):
    register(wants("wide", view_codes=(None, 768)))
    line = refuse(workshop, refused, "terms.wide.weight=1", "terms.alignment.weight=0")
    assert "terms.wide reads view_codes of shape (any, 768) per shape, found (12, 512)" in line
    assert "another bank" in line


def test_another_number_of_views_is_refused(workshop, refused):
    register(wants("ring", view_codes=(12, None)))
    line = refuse(workshop, refused, "terms.ring.weight=1", "targets.views=4")
    assert "terms.ring reads view_codes of shape (12, any) per shape, found (4, 512)" in line


def test_terms_that_want_different_things_are_refused(workshop, refused):
    register(wants("wide", view_codes=(None, 768)))
    register(wants("narrow", view_codes=(None, 512)))
    line = refuse(workshop, refused, "terms.wide.weight=1", "terms.narrow.weight=1")
    assert "terms.narrow reads view_codes of shape (any, 512), terms.wide of shape (any, 76" in line
    register(wants("flat", view_codes=(None,)))
    with pytest.raises(ConfigError, match="terms.flat reads view_codes of shape"):
        weights = {"narrow": 1.0, "flat": 1.0}
        wanted_fields(settle("student", weights), build_student("pointnet", 3))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("depths", "depths"),
        ("view_code", "did you mean 'view_codes'"),
        ("codes@1", "codes@1"),  # codes do not change
    ],
)
def test_fields_that_nothing_provides_are_refused(workshop, refused, field, said):
    register(wants("odd", **{field: None}))
    assert said in refuse(workshop, refused, "terms.odd.weight=1")


def test_a_field_of_a_bank_is_refused_without_one(workshop, refused):
    register(wants("taught", codes=None))
    line = refuse(workshop, refused, "terms.taught.weight=1", *ALONE, "targets.bank=null")
    assert "codes" in line and "targets.bank=FILE" in line


def test_what_one_term_leaves_open_another_may_want():
    register(wants("wide", view_codes=(None, 768)))
    register(wants("many", view_codes=(12, None)))
    register(wants("any", view_codes=None, codes=None))
    terms = settle("student", dict.fromkeys(("wide", "many", "any"), 1.0))
    wanted = wanted_fields(terms, build_student("pointnet", 3))
    assert wanted == {"points", "view_codes", "codes"}


class TwoCopies(Term):
    """The same shape has one feature, however it is changed; it makes both passes by itself."""

    name = "copies"
    learns_from = "shapes"
    reads_output = False

    def __init__(self, settings, network, fields):
        super().__init__(settings, network, fields)
        self.found = []  # of every batch: how far apart the copies are, and the output

    @classmethod
    def reads(cls, settings, network):
        return {"points@1": (None, 3), "visibility@1": None}

    def forward(self, batch, output):
        assert batch["visibility@1"].shape[:2] == batch["points@1"].shape[:2]
        self.found.append(((batch["points"] - batch["points@1"]).abs().mean().item(), output))
        one, other = (self.network(batch[name]) for name in ("points", "points@1"))
        return F.mse_loss(one.global_feature, other.global_feature.detach())


class Sight(Term):
    """The cloud's feature makes the mean grey value of each view; a batch holds both."""

    name = "sight"
    learns_from = "shapes"

    def __init__(self, settings, network, fields):
        super().__init__(settings, network, fields)
        self.found = []
        self.head = nn.Linear(network.global_channels, self.fields["views"].shape[0])

    @classmethod
    def reads(cls, settings, network):
        return {"views": (None, 1, None, None)}

    def forward(self, batch, output):
        self.found.append((batch["points"].shape, batch["views"].shape))
        views = batch["views"].float().flatten(2).mean(dim=2)  # (B, V)
        return F.mse_loss(self.head(output.global_feature), views)


class Silent(Term):
    """A term of its own parameters alone."""

    name = "silent"
    learns_from = "shapes"
    reads_output = False

    def __init__(self, settings, network, fields):
        super().__init__(settings, network, fields)
        self.value = nn.Parameter(torch.tensor(3.0))

    def forward(self, batch, output):
        return self.value.square()


def count_calls(network: nn.Module) -> list[int]:
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ("weights", "calls"),
    [({"silent": 1.0}, 0), ({"copies": 1.0}, 2), ({"copies": 1.0, "silent": 1.0, "task": 1.0}, 3)],
)
def test_the_network_computes_for_terms_that_read_its_output(weights, calls):
    register(Silent), register(TwoCopies)
    student = build_student("pointnet", 3)
    fields = {name: Field((32, 3)) for name in ("points", "points@1")}
    fields |= {"visibility@1": Field((32, 4)), "label": Field(())}
    objective = Objective(student, settle("student", weights), fields)
    called = count_calls(student)
    points = torch.rand(4, 32, 3)
    batch = {"points": points, "points@1": points * 2, "label": torch.tensor([0, 1, 2, 0])}
    batch["visibility@1"] = torch.ones(4, 32, 4, dtype=torch.bool)
    if "task" not in weights:
        del batch["label"]
    found = objective(batch)
    assert len(called) == calls and set(found.losses) == set(weights)
    objective.total(found.losses).backward()
    assert not objective.trains_all or calls == 3
    assert set(pack_heads(objective.terms)) == {"silent"} & set(weights)


def test_two_copies_of_a_cloud_train(workshop, objectives):
    register(TwoCopies)
    arguments = [*ALONE, "terms.copies.weight=1", "terms.task.weight=0", "terms.transform.weight=0"]
    arguments += ["method=copies"]
    train_student.main(workshop.student_arguments("copies", *arguments))
    found = objectives[0].terms["copies"].found
    assert len(found) == 3
    assert all(apart > 0.01 and output is None for apart, output in found)
    content = read_model(workshop.student("copies"))
    assert content["training"]["method"] == ["copies"] and content["heads"] == {}
    assert content["training"]["bank"] is None


def test_points_and_views_train_in_one_batch(workshop, objectives):
    register(Sight)
    arguments = ["terms.sight.weight=1", "data.views=5", "augment_views.brightness=0.3"]
    arguments += ["train.epochs=1", "train.pictures=true", "method=both"]
    train_student.main(workshop.student_arguments("sight", *arguments))
    assert objectives[0].terms["sight"].found == 3 * [((16, 128, 3), (16, 5, 1, 32, 32))]
    content = read_model(workshop.student("sight"))
    assert set(content["heads"]) == {"alignment", "sight"}
    seen = torch.ones(2, 100, 3, dtype=torch.bool)
    student = load_model(workshop.student("sight"))
    output = student(torch.rand(2, 100, 3), visibility=seen)
    assert output.view_codes.shape == (2, 3, 512)
    assert student.heads["sight"].head(output.global_feature).shape == (2, 5)
