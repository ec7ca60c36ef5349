"""The teacher: backbones, weights, codes and losses."""

import pytest
import torch
import torchvision
from conftest import slow_if
from helpers import make_objective

from models.images.backbones import TORCHVISION, ImageBackbone
from models.images.teachers import CODE_SIZE, build_teacher
from models.terms.task import smoothed_cross_entropy
from utils.errors import DataError


@pytest.mark.parametrize("name", [slow_if("vgg" in name, name) for name in TORCHVISION])
def test_backbones_give_the_pooled_last_map(name):
    torch.manual_seed(0)
    backbone = ImageBackbone(name).eval()
    images = torch.rand(2, 3, 64, 64)
    features = backbone(images)
    assert features.shape == (2, TORCHVISION[name][0])
    torch.testing.assert_close(features, backbone.features(images).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0"])
def test_weights_of_torchvision_are_taken_over(name, tmp_path):
    torch.manual_seed(1)
    network = torchvision.models.get_model(name, weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    backbone = ImageBackbone(name, str(tmp_path / "weights.pth")).eval()
    images = torch.rand(1, 3, 64, 64)
    if name == "resnet18":
        expected = torch.nn.Sequential(*list(network.children())[:-1])(images).flatten(1)
    else:
        expected = network.features(images).mean(dim=(2, 3))
    torch.testing.assert_close(backbone(images), expected)


def test_only_the_classification_head_may_be_missing(tmp_path):
    path = tmp_path / "weights.pth"
    state = torchvision.models.squeezenet1_0(weights=None).state_dict()
    without_head = {k: v for k, v in state.items() if not k.startswith("classifier.")}
    torch.save(without_head, path)
    ImageBackbone("squeezenet1_0", str(path))
    first = next(iter(without_head))
    for broken, said in (
        ({k: v for k, v in state.items() if k != first}, "missing"),
        ({**state, "extra.weight": torch.zeros(1)}, "unexpected"),
        ({**state, first: state[first][:1]}, "another shape"),
    ):
        torch.save(broken, path)
        with pytest.raises(DataError, match=said):
            ImageBackbone("squeezenet1_0", str(path))


def test_codes_are_the_maximum_over_views_and_logits_share_a_classifier():
    torch.manual_seed(2)
    teacher = build_teacher("squeezenet1_0", 7).eval()
    views = torch.randint(0, 256, (2, 5, 1, 48, 48), dtype=torch.uint8)
    out = teacher(views)
    assert out.view_codes.shape == (2, 5, CODE_SIZE)
    assert (out.view_codes >= 0).all() and (out.code >= 0).all()
    torch.testing.assert_close(out.code, teacher.shape_head(out.view_codes.amax(dim=1)))
    torch.testing.assert_close(out.view_logits, out.view_codes @ teacher.classifier.weight.T)
    torch.testing.assert_close(out.logits, out.code @ teacher.classifier.weight.T)
    assert teacher.classifier.bias is None
    shuffled = teacher(views[:, torch.randperm(5)])
    torch.testing.assert_close(shuffled.logits, out.logits)


def test_grey_colour_uint8_and_float_agree():
    torch.manual_seed(3)
    teacher = build_teacher("squeezenet1_0", 3).eval()
    grey = torch.randint(0, 256, (1, 2, 1, 48, 48), dtype=torch.uint8)
    expected = teacher(grey).logits
    torch.testing.assert_close(teacher(grey.expand(1, 2, 3, 48, 48)).logits, expected)
    torch.testing.assert_close(teacher(grey.float() / 255).logits, expected)
    plain = build_teacher("squeezenet1_0", 3, normalise="none")
    assert plain.mean.abs().sum() == 0 and (plain.std == 1).all()


def test_smoothed_cross_entropy_follows_its_definition():
    torch.manual_seed(4)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    for smoothing in (0.0, 0.05, 0.2):
        target = torch.full((6, 5), smoothing / 4)
        target[torch.arange(6), labels] = 1 - smoothing
        expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(smoothed_cross_entropy(logits, labels, smoothing), expected)


def test_the_two_losses_of_the_teacher():
    torch.manual_seed(5)
    teacher = build_teacher("squeezenet1_0", 4).eval()
    options = {"task": {"smoothing": 0.1}, "views": {"smoothing": 0.2}}
    objective = make_objective(teacher, {"task": 1.0, "views": 2.0}, **options)
    batch = {
        "views": torch.randint(0, 256, (3, 2, 1, 48, 48), dtype=torch.uint8),
        "label": torch.tensor([0, 3, 1]),
    }
    out, found = teacher(batch["views"]), objective(batch)
    losses = found.losses
    by_view = [smoothed_cross_entropy(out.view_logits[:, v], batch["label"], 0.2) for v in (0, 1)]
    torch.testing.assert_close(losses["views"], sum(by_view) / 2)
    torch.testing.assert_close(
        losses["task"], smoothed_cross_entropy(out.logits, batch["label"], 0.1)
    )
    torch.testing.assert_close(objective.total(losses), losses["task"] + 2 * losses["views"])
    assert torch.equal(found.logits, out.logits) and torch.equal(found.target, batch["label"])
    only = make_objective(teacher, {"task": 0.0, "views": 1.0})(batch)
    assert set(only.losses) == {"views"}
    assert torch.equal(only.logits, out.view_logits)  # what is trained is judged
    assert torch.equal(only.target, batch["label"].unsqueeze(1).expand(3, 2))
