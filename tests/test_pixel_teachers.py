"""The attention VGG, its two decoders, and the teachers that learn from pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import slow_if
from helpers import make_objective, settle
from torch import nn

import export_teacher
import train_teacher
from data.bank import Bank
from data.datasets import ShapeSet
from data.storage import open_split
from data.subsets import Subset
from models import load_model
from models.images.attention_vgg import AttentionVGG, ChannelAttention, SpatialAttention
from models.images.teachers import ATTENTION_VGG, CODE_SIZE, build_teacher, initialise_backbone
from models.objective import wanted_fields
from utils.checkpoint import read_model, save_model
from utils.errors import ConfigError, DataError
from utils.settings import DataSettings

RELEASE = Path(__file__).resolve().parent.parent.parent / "shared" / "release_keys.json"
TASKS = {
    "classification": {"num_classes": 5},
    "segmentation": {"num_classes": 7, "num_categories": 3},
    "autoencoder": {"num_classes": 0},
}


def teacher_of(task, **changed):
    build = {"backbone": ATTENTION_VGG, "normalise": "none", "task": task, **TASKS[task], **changed}
    return build_teacher(**build).eval(), build


def some_views(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def with_random_statistics(network):
    """Batch norm that is not the identity, so that a misplaced one shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize(
    ("task", "published", "parameters"),
    [
        ("autoencoder", "CNN_Backbone_Pretrainer", 16_783_540),
        ("segmentation", "Teacher_Seg", 16_796_500),
    ],
)
def test_every_weight_is_one_of_the_published_network(task, published, parameters):
    teacher, _ = teacher_of(
        task, num_classes=50 if task == "segmentation" else 0, num_categories=16
    )
    assert sum(p.numel() for p in teacher.parameters()) == parameters
    if not RELEASE.is_file():
        pytest.skip("the lists of the published networks are not beside the project")
    keys = json.loads(RELEASE.read_text())["PointMCD release"][published]
    own = [list(value.shape) for value in teacher.state_dict().values()]
    assert own == list(keys.values())


def test_spatial_attention_weighs_pixels():
    torch.manual_seed(0)
    attention, maps = SpatialAttention(5), torch.randn(2, 6, 7, 8)
    out = attention(maps)
    padded = F.pad(torch.stack([maps.mean(1), maps.max(1).values], dim=1), (2, 2, 2, 2))
    for i, j in ((0, 0), (3, 4), (6, 7)):
        patch = padded[:, :, i : i + 5, j : j + 5]
        weight = (patch * attention.conv.weight).sum(dim=(1, 2, 3)).sigmoid()
        torch.testing.assert_close(out[:, :, i, j], maps[:, :, i, j] * (1 + weight[:, None]))


def test_channel_attention_weighs_channels():
    torch.manual_seed(1)
    attention, maps = ChannelAttention(16), torch.randn(2, 16, 3, 5)
    squeeze, _, expand = attention.bottleneck
    assert squeeze.weight.shape == (2, 16)
    summed = 0
    for vector in (maps.flatten(2).mean(2), maps.flatten(2).max(2).values):
        summed = summed + (vector @ squeeze.weight.T).relu() @ expand.weight.T
    expected = maps * (1 + summed.sigmoid()[:, :, None, None])
    torch.testing.assert_close(attention(maps), expected)


@pytest.mark.slow
def test_stages_are_those_of_vgg_with_attention_between(tmp_path):
    torch.manual_seed(2)
    vgg = with_random_statistics(torchvision.models.vgg11_bn(init_weights=False)).eval()
    state = {k: v for k, v in vgg.state_dict().items() if k.startswith("features.")}
    torch.save(state, tmp_path / "vgg.pth")
    backbone = AttentionVGG(str(tmp_path / "vgg.pth")).eval()
    images = maps = torch.rand(2, 3, 64, 48)
    found = backbone.maps(images)
    for (begin, end), stage, own in zip(
        ((0, 7), (7, 14), (14, 21), (21, 28)), backbone.stages, found, strict=True
    ):
        maps = stage[1](vgg.features[begin:end](maps))
        torch.testing.assert_close(own, maps)
    assert [tuple(own.shape[1:]) for own in found] == [
        (128, 32, 24),
        (256, 16, 12),
        (512, 8, 6),
        (512, 4, 3),
    ]
    torch.testing.assert_close(backbone(images), maps.mean(dim=(2, 3)))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="do not fit vgg11_bn"):
        AttentionVGG(str(tmp_path / "other.pth"))


@pytest.mark.slow
def test_the_autoencoder_at_224_is_the_published_chain_of_doublings():
    torch.manual_seed(3)
    teacher = with_random_statistics(teacher_of("autoencoder")[0])
    views = some_views(1, 2, 3, 224, 224)
    out, decoder = teacher(views), teacher.decoder
    codes = teacher.backbone(views.flatten(0, 1).float() / 255)
    maps, double = (
        decoder.lifting(codes).view(2, 256, 7, 7),
        nn.UpsamplingBilinear2d(scale_factor=2),
    )
    for step in decoder.steps:
        maps = step(double(maps))
    torch.testing.assert_close(out.images[0], decoder.output(double(maps)))
    torch.testing.assert_close(out.view_codes[0], codes)
    torch.testing.assert_close(out.code, codes.amax(dim=0, keepdim=True))
    assert out.logits is None and out.view_logits is None


def test_the_part_decoder_reads_stages_and_category_in_the_published_order():
    torch.manual_seed(4)
    teacher = with_random_statistics(teacher_of("segmentation")[0])
    views, category = some_views(2, 3, 1, 64, 64), torch.tensor([2, 0])
    out, decoder = teacher(views, category=category), teacher.decoder
    double = nn.UpsamplingBilinear2d(scale_factor=2)
    one, two, three, four = teacher.backbone.maps(teacher.images(views))
    codes = four.mean(dim=(2, 3))
    known = torch.eye(3)[[2, 2, 2, 0, 0, 0]]
    fused = decoder.fuse(torch.cat([codes, decoder.lift(known)], dim=1))
    spread = fused[:, :, None, None] * torch.ones(1, 1, 4, 4)
    maps = decoder.steps[0](torch.cat([four, spread], dim=1))
    maps = decoder.steps[1](torch.cat([three, double(maps)], dim=1))
    maps = decoder.steps[2](torch.cat([two, double(maps)], dim=1))
    maps = decoder.steps[3](torch.cat([one, double(maps)], dim=1))
    logits = decoder.output(decoder.steps[4](double(maps)))  # (6, 8, 64, 64)
    assert logits.shape[1] == 7 + 1  # the background
    torch.testing.assert_close(out.logits, logits.view(2, 3, 8, 64, 64))
    assert out.view_logits is out.logits
    torch.testing.assert_close(out.view_codes, codes.view(2, 3, CODE_SIZE))


def test_codes_need_no_category_and_do_not_change_with_it():
    torch.manual_seed(5)
    teacher, views = teacher_of("segmentation")[0], some_views(2, 2, 1, 32, 32)
    without = teacher(views)
    assert without.logits is None and without.images is None
    one, other = (teacher(views, category=torch.tensor(c)) for c in ([0, 0], [1, 0]))
    for out in (one, other):
        assert torch.equal(out.view_codes, without.view_codes)
        assert torch.equal(out.code, without.code)
    assert not torch.allclose(one.logits[0], other.logits[0])
    torch.testing.assert_close(one.logits[1], other.logits[1])
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(ConfigError, match="must be in 0 .. 2"):
            teacher(views, category=torch.tensor(wrong))


@pytest.mark.parametrize("task", TASKS)
def test_grey_colour_uint8_float_and_any_size(task):
    torch.manual_seed(6)
    teacher, _ = teacher_of(task)
    category = torch.tensor([1])

    def pixels(views):
        out = teacher(views, category=category)
        return out.images if task == "autoencoder" else out.logits

    grey = some_views(1, 2, 1, 50, 37)
    expected = pixels(grey)
    torch.testing.assert_close(pixels(grey.expand(1, 2, 3, 50, 37)), expected)
    torch.testing.assert_close(pixels(grey.float() / 255), expected)
    if task != "classification":
        channels = 3 if task == "autoencoder" else 8
        assert expected.shape == (1, 2, channels, 50, 37)
        assert pixels(some_views(1, 1, 1, 16, 16)).shape[-2:] == (16, 16)
    with pytest.raises(ConfigError, match="15 x 40"):
        pixels(some_views(1, 1, 1, 15, 40))


def test_pixel_tasks_need_the_attention_vgg():
    with pytest.raises(ConfigError, match="vgg11_bn_attention, not 'vgg11_bn'"):
        build_teacher("vgg11_bn", 0, task="autoencoder")
    with pytest.raises(ConfigError, match="did you mean 'vgg11_bn_attention'"):
        build_teacher("vgg11_bn_atention", 4)


def test_reconstruction_loss():
    torch.manual_seed(7)
    teacher, _ = teacher_of("autoencoder")
    objective = make_objective(teacher, {"reconstruction": 2.0})
    views = some_views(2, 1, 1, 32, 32)
    out = objective({"views": views})  # no label
    images = teacher(views).images
    expected = sum((images[:, :, c] - views[:, :, 0] / 255).abs().mean() for c in range(3)) / 3
    torch.testing.assert_close(out.losses["reconstruction"], expected)
    torch.testing.assert_close(objective.total(out.losses), 2 * expected)
    assert out.logits is None and out.target is None
    assert wanted_fields(settle("teacher", {"reconstruction": 1.0}), teacher) == {"views"}
    with pytest.raises(ConfigError, match="terms.views trains a teacher for classification, found"):
        wanted_fields(settle("teacher", {"views": 1.0}), teacher)


def test_segmentation_loss_leaves_unlabelled_pixels_out():
    torch.manual_seed(8)
    teacher, _ = teacher_of("segmentation")
    objective = make_objective(teacher, {"pixels": 1.0})
    wanted = wanted_fields(settle("teacher", {"pixels": 1.0}), teacher)
    assert wanted == {"views", "part_images"}
    batch = {
        "views": some_views(2, 2, 1, 16, 16),
        "label": torch.tensor([1, 2]),
        "part_images": torch.randint(-1, 8, (2, 2, 16, 16)),
    }
    out = objective(batch)
    logits = teacher(batch["views"], category=batch["label"]).logits.log_softmax(dim=2)
    terms = [
        -logits[b, v, part, i, j]
        for (b, v, i, j), part in np.ndenumerate(batch["part_images"].numpy())
        if part >= 0
    ]
    torch.testing.assert_close(out.losses["pixels"], torch.stack(terms).mean())
    assert out.logits.shape == (2, 2, 16, 16, 8) and not out.logits.requires_grad
    assert torch.equal(out.target, batch["part_images"])
    nothing = objective({**batch, "part_images": torch.full((2, 2, 16, 16), -1)})
    assert nothing.losses["pixels"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("task", "side"), [("segmentation", 16), ("autoencoder", 32)])
def test_pixel_teachers_learn_a_few_views(task, side):
    torch.manual_seed(9)
    teacher = teacher_of(task)[0].train()
    name = {"segmentation": "pixels", "autoencoder": "reconstruction"}[task]
    objective = make_objective(teacher, {name: 1.0})
    shape = torch.zeros(4, 1, 1, side, side, dtype=torch.uint8)
    shape[:, :, :, side // 4 : 3 * side // 4, side // 8 : 5 * side // 8] = 200
    batch = {"views": shape, "label": torch.tensor([0, 1, 2, 0])}
    batch["part_images"] = torch.where(shape[:, :, 0] > 0, 3, 7)
    optimizer = torch.optim.Adam(objective.parameters(), 1e-3)
    losses = []
    for amp in (False, False, False, False, task == "segmentation"):
        some = {key: value[:2] for key, value in batch.items()} if amp else batch
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = objective.total(objective(some).losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.dtype == torch.float32
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


@pytest.mark.parametrize("task", [slow_if(task != "segmentation", task) for task in TASKS])
def test_checkpoints_of_all_tasks_are_built_again(task, tmp_path):
    torch.manual_seed(10)
    teacher, build = teacher_of(task)
    path = tmp_path / "teacher.pth"
    save_model(path, "teacher", teacher, build, ["a", "b", "c"], {}, {}, {})
    again, views = load_model(path), torch.rand(2, 3, 3, 32, 32)
    expected, found = teacher(views), again(views)
    torch.testing.assert_close(found.view_codes, expected.view_codes)
    assert found.code.shape == (2, CODE_SIZE) and (found.view_codes >= 0).all()


def test_a_backbone_is_handed_on(tmp_path):
    torch.manual_seed(11)
    source, build = teacher_of("autoencoder")
    path = tmp_path / "source.pth"
    save_model(path, "teacher", source, build, [], {}, {}, {})
    content = read_model(path, "teacher")
    for task in ("segmentation", "classification"):
        teacher, own = teacher_of(task)
        initialise_backbone(teacher, own, content, "source.pth")
        for name, value in source.backbone.state_dict().items():
            assert torch.equal(teacher.backbone.state_dict()[name], value), name
    with pytest.raises(ConfigError, match="source.pth has teacher.normalise=none, here it is imag"):
        initialise_backbone(teacher, own | {"normalise": "imagenet"}, content, "source.pth")
    with pytest.raises(ConfigError, match="teacher.backbone=vgg11_bn_attention, here it is resnet"):
        initialise_backbone(teacher, own | {"backbone": "resnet18"}, content, "source.pth")


@pytest.mark.slow
def test_from_pixels_to_a_bank(workshop, pixel_teachers, tmp_path):
    """The autoencoder gives the segmentation teacher its backbone; both export codes."""
    first, second = pixel_teachers
    split = open_split("Pixels", "test", workshop.root)

    content = read_model(second, "teacher")
    assert content["build"]["num_classes"] == split.num_parts
    assert content["build"]["num_categories"] == 16
    assert content["training"]["part_names"] == split.part_names
    metrics = content["training"]["metrics"]
    assert set(metrics) == {"eval/overall", "eval/instance_miou", "eval/class_miou"}
    assert read_model(first)["training"]["metrics"].keys() == {"eval/pixel"}

    for path in (first, second):
        bank_path = tmp_path / f"{path.stem}.h5"
        export_teacher.main([str(path), "--output", str(bank_path), "--device", "cpu"])
        bank, teacher = Bank(bank_path), load_model(path)
        assert bank.names == ["codes", "view_codes"]
        bank.check(split)
        data = DataSettings(name="Pixels", size=16)
        shape = ShapeSet(Subset(split, np.array([5])), {"views"}, data, torch.device("cpu"))
        out = teacher(next(shape.evaluation(1))["views"])
        row = bank.locate([split.ids[5]])
        codes = bank.read("view_codes", row)
        np.testing.assert_allclose(codes, out.view_codes.numpy(), rtol=2e-3, atol=2e-3)
        np.testing.assert_array_equal(bank.read("codes", row), codes.max(axis=1))

    arguments = workshop.pixel_arguments("teacher_partseg", "partseg")
    with pytest.raises(ConfigError, match="another configuration"):
        train_teacher.main(arguments)
    arguments += [f"init={first}", "terms.task.weight=1", "run.overwrite=true"]
    with pytest.raises(ConfigError, match="terms.task trains a teacher for classification, found"):
        train_teacher.main(arguments)
