"""What every encoder owes the rest: the output contract, invariances, gradients, sizes.

The clouds fill a cube evenly and thinly, so that no ball of the first levels holds more points than
it takes: which points a full ball takes depends on their order, by definition.
"""

from __future__ import annotations

import pytest
import torch
from conftest import slow_if
from torch import nn

from models.encoders.pointnet import PointNet, orthogonality
from models.encoders.pointnet2 import BallNet, Scale, pointnet2_ssg
from models.layers.pointops import ball_query, farthest_point_sample, gather_rows
from models.outputs import StudentOutput
from models.students import ENCODERS, TASKS, Student, build_student
from utils.errors import ConfigError

CLASSES = 7
CARRYING = {"pointnet2_ssg": 128, "pointnet2_msg": 128, "curvenet": 64}  # the others: all points
CARRYING["curvenet_released"] = CARRYING["curvenet"]
CARRYING |= {"pointmlp": 64, "pointmlp_elite": 64}
HALVED = {"pointnext_s", "pointnext_s64", "pointnext_s_height"}  # four times
# whose cloud feature begins with the maximum of the embeddings
POOLED_BY_MAXIMUM = {"pointnet", "dgcnn", "dgcnn_published", *CARRYING, *HALVED}
# Fewest points: centres of the first level, second resolution, neighbours.
SMALLEST = {"pointnet2_ssg": 512, "pointnet2_msg": 512, "curvenet": 256, "dgcnn": 20}
SMALLEST["curvenet_released"] = SMALLEST["curvenet"]
SMALLEST |= {"dgcnn_published": 20, "pointmlp": 512, "pointmlp_elite": 512}
SMALLEST |= dict.fromkeys(sorted(HALVED), 16)

# Parameters for 40 classes, part by part. A layer of a -> b channels has a * b weights, b biases if
# its network has them, and 2 * b of its normalisation. The sums are those of the weights that the
# authors (PointNet++: its common PyTorch implementation) published, without training-only heads.
POINTMCD_HEAD = 545_792  # 1024-512-40, no biases
POINTNET2_HEAD = 667_944  # 1024-512-256-40
PARAMETERS = {
    # transforms 3x3 and 64x64, layers 3-64 and 64-128-1024
    ("pointnet", "pointmcd"): 43_273 + 312_832 + 384 + 142_720 + POINTMCD_HEAD,
    # two set abstractions, pooling layers 259-256-512-1024
    ("pointnet2_ssg", "published"): 13_248 + 67_456 + 727_040 + POINTNET2_HEAD,
    # three scales of the first and of the second abstraction, pooling layers from 643
    ("pointnet2_msg", "published"): (3_552 + 13_248 + 19_488)
    + (33_728 + 92_032 + 92_032)
    + 825_344
    + POINTNET2_HEAD,
    # four edge convolutions, fusion 512-1024
    ("dgcnn", "pointmcd"): 512 + 8_320 + 16_640 + 66_048 + 526_336 + POINTMCD_HEAD,
    # first LPFA, eight blocks, layer 512-1024, head 2048-512-40
    ("curvenet", "published"): 352
    + (5_270 + 3_606 + 19_750 + 13_350 + 63_424 + 38_336 + 249_728 + 150_400)
    + 526_336
    + 1_070_120,
}
PARAMETERS["curvenet_released", "published"] = PARAMETERS["curvenet", "published"]
DGCNN_LAYERS = 512 + 8_320 + 16_640 + 66_048 + 526_336  # edge convolutions, fusion 512-1024
PARAMETERS["dgcnn_published", "published"] = DGCNN_LAYERS + 1_191_720  # 2048-512-256-40
# For 15 classes too, the second number: what the files of the releases count.
WHOLE = {
    "pointmlp": (13_238_504, 13_232_079),
    "pointmlp_elite": (716_232, 709_807),
    "pointnext_s": (1_373_512, 1_367_087),
    "pointnext_s_height": (1_373_544, 1_367_119),
    "pointnext_s64": (4_523_112, 4_516_687),
}
PARAMETERS |= {(name, "published"): counts[0] for name, counts in WHOLE.items()}

# Others with more scales, layers or channels, or another order of momentum: in few tests
TWINS = {"pointnet2_msg", "curvenet_released", "dgcnn_published", "pointmlp", "pointnext_s64"}
TWINS |= {"pointnext_s_height"}
every_encoder = pytest.mark.parametrize("name", [slow_if(name in TWINS, name) for name in ENCODERS])
every_kind = pytest.mark.parametrize(
    "name", [slow_if(name == "curvenet", name) for name in ENCODERS if name not in TWINS]
)


def cloud(batch: int, count: int = 600, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def student(name: str, head: str = "default") -> Student:
    """A student in evaluation mode with no parameter or statistic left at 0 or 1."""
    torch.manual_seed(0)
    network = build_student(name, CLASSES, head)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(network.encoder, PointNet):
            for transform in (network.encoder.point_transform, network.encoder.feature_transform):
                nn.init.normal_(transform.last.weight, std=0.02)
    return network.eval()


def ordered(output: StudentOutput, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (B, M, 3) and embeddings (B, M, C) by ascending x of the points they stand for."""
    positions = gather_rows(points, output.point_index)
    order = positions[:, :, 0].argsort(dim=1)
    return gather_rows(positions, order), gather_rows(output.point_features, order)


@every_encoder
@pytest.mark.parametrize("count", [1024, slow_if(True, 2048)])
@torch.no_grad()
def test_output_contract(name, count):
    network = student(name)
    output = network(cloud(2, count))
    carrying = count // 16 if name in HALVED else CARRYING.get(name, count)
    assert output.logits.shape == (2, CLASSES)
    assert output.global_feature.shape == (2, network.encoder.global_channels)
    assert output.point_features.shape == (2, carrying, network.encoder.feature_channels)
    assert output.point_index.shape == (2, carrying)
    assert output.point_index.dtype == torch.int64
    assert all(len(row.unique()) == carrying for row in output.point_index)
    assert output.point_index.min() >= 0 and output.point_index.max() < count
    if name in POOLED_BY_MAXIMUM:
        pooled = output.global_feature[:, : network.encoder.feature_channels]
        assert torch.equal(output.point_features.amax(dim=1), pooled)
    assert all(value.shape == () for value in output.extra_losses.values())


@every_kind
@torch.no_grad()
def test_order_of_the_points_does_not_matter(name):
    network = student(name)
    points = cloud(2)
    # sampling begins at the first point, which therefore stays where it is
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(599)])
    one, other = network(points), network(points[:, order])
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-3, atol=1e-3)
    for before, after in zip(ordered(one, points), ordered(other, points[:, order]), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


@every_kind
@torch.no_grad()
def test_a_cloud_does_not_depend_on_its_batch_mates(name):
    network = student(name)
    points = cloud(3)
    together = network(points)
    for sample in range(3):
        alone = network(points[sample : sample + 1])
        torch.testing.assert_close(alone.logits[0], together.logits[sample], rtol=1e-4, atol=1e-4)
        assert torch.equal(alone.point_index[0], together.point_index[sample])


@every_encoder
def test_every_parameter_has_a_gradient(name):
    network = student(name)
    output = network(cloud(2))
    weight = torch.randn(output.logits.shape)
    (output.logits * weight).sum().add(sum(output.extra_losses.values())).backward()
    without = [
        key
        for key, value in network.named_parameters()
        if value.grad is None or not value.grad.any()
    ]
    assert not without


@every_kind
def test_embeddings_depend_on_the_point_they_stand_for(name):
    network = student(name)
    points = cloud(1).requires_grad_()
    output = network(points)
    for embedding in (0, 21, 30, output.point_index.shape[1] - 1):
        (gradient,) = torch.autograd.grad(
            output.point_features[0, embedding].sum(), points, retain_graph=True
        )
        assert gradient[0, output.point_index[0, embedding]].any()


@every_encoder
@pytest.mark.parametrize("training", [True, False])
def test_a_cloud_of_one_point_repeated_stays_finite(name, training):
    network = student(name).train(training)
    points = cloud(2)
    points[1] = 0.3
    output = network(points)
    (output.logits.square().sum() + sum(output.extra_losses.values())).backward()
    assert output.logits.isfinite().all() and output.point_features.isfinite().all()
    assert all(value.grad.isfinite().all() for value in network.parameters())


@pytest.mark.parametrize(("name", "smallest"), SMALLEST.items())
def test_too_few_points_are_refused(name, smallest):
    with pytest.raises(ConfigError, match=f"{smallest - 1}"):
        student(name)(cloud(1, smallest - 1))


@every_kind
@torch.no_grad()
def test_autocast_keeps_the_geometry(name):
    network = student(name)
    points = cloud(2)
    plain = network(points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = network(points)
    assert torch.equal(cast.point_index, plain.point_index)
    error = (cast.global_feature.float() - plain.global_feature).norm()
    assert error < 0.1 * plain.global_feature.norm()


@pytest.mark.parametrize(("name", "head"), PARAMETERS)
def test_parameter_count_is_that_of_the_papers_network(name, head):
    network = build_student(name, 40, head)
    assert sum(value.numel() for value in network.parameters()) == PARAMETERS[name, head]


@pytest.mark.parametrize("name", WHOLE)
def test_parameter_count_for_the_classes_of_scanobjectnn(name):
    network = build_student(name, 15)
    assert sum(value.numel() for value in network.parameters()) == WHOLE[name][1]


def test_numbers_that_no_parameter_shows_are_those_of_the_papers():
    """Radii, ball sizes, neighbours, dropout and slopes; the widths show in the counts above."""
    balls = {
        "pointnet2_ssg": [[(0.2, 32)], [(0.4, 64)]],
        "pointnet2_msg": [
            [(0.1, 16), (0.2, 32), (0.4, 128)],
            [(0.2, 32), (0.4, 64), (0.8, 128)],
        ],
    }
    for name, expected in balls.items():
        encoder = build_student(name, 40).encoder
        levels = [encoder.first, encoder.second]
        assert [[(net.radius, net.points) for net in lv.balls] for lv in levels] == expected
    assert [conv.k for conv in build_student("dgcnn", 40).encoder.convs] == 4 * [20]
    assert build_student("curvenet", 40).encoder.k == 20
    heads = {
        "pointnet": [(0, 0), (0.3, 0)],
        "pointnet2_ssg": [(0.4, 0), (0.4, 0)],
        "pointnet2_msg": [(0.4, 0), (0.5, 0)],
        "dgcnn": [(0.5, 0.2), (0.5, 0.2)],
        "curvenet": [(0.5, 0)],
        "dgcnn_published": [(0.5, 0.2), (0.5, 0.2)],
        "pointmlp_elite": [(0.5, 0), (0.5, 0)],
        "pointnext_s": [(0.5, 0), (0.5, 0)],
    }
    for name, expected in heads.items():
        layers = build_student(name, 40, "published").head.hidden
        assert [(layer[3].p, layer[2].negative_slope) for layer in layers] == expected


@every_encoder
@pytest.mark.parametrize("head", ["pointmcd", "published"])
def test_every_head_fits_every_encoder(name, head):
    if head == "published" and not ENCODERS[name].published:
        pytest.skip("its paper's classifier is not offered")
    network = build_student(name, CLASSES, head)
    code = torch.randn(4, network.encoder.global_channels)
    assert network.head(code).shape == (4, CLASSES)


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="unknown encoder 'pointnet2_sgs'.*'pointnet2_ssg'"):
        build_student("pointnet2_sgs", CLASSES)
    with pytest.raises(ConfigError, match="unknown head 'publish'.*'published'"):
        build_student("pointnet", CLASSES, "publish")


def test_pointnet_begins_with_identity_transforms():
    network = build_student("pointnet", CLASSES)
    output = network(cloud(2))
    assert output.extra_losses["transform"].item() == 0
    output.extra_losses["transform"].backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in network.parameters())


def test_orthogonality_is_the_frobenius_norm_of_the_deviation():
    rotation = torch.linalg.qr(torch.randn(4, 4)).Q
    stretched = torch.diag(torch.tensor([2.0, 1, 1, 1]))  # A A^T - I has the single entry 3
    assert orthogonality(rotation[None]) < 1e-5
    torch.testing.assert_close(
        orthogonality(torch.stack([stretched, rotation])), torch.tensor(1.5), rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_pointnet_does_not_see_repeated_points():
    network = student("pointnet")
    points = cloud(2, 100)
    torch.testing.assert_close(network(points).logits, network(points.repeat(1, 3, 1)).logits)


def plain_ball_net(
    net: BallNet, points: torch.Tensor, features: torch.Tensor | None, centres: torch.Tensor
) -> torch.Tensor:
    """The set abstraction as it is usually written: gather, concatenate, network, maximum."""
    index = ball_query(points, centres, net.radius, net.points)
    grouped = gather_rows(points, index) - centres.unsqueeze(2)
    if features is not None:
        grouped = torch.cat([grouped, gather_rows(features, index)], dim=3)
    rows = grouped.flatten(0, 2)
    for linear, norm in zip(net.linears, net.norms, strict=True):
        rows = torch.relu(norm(linear(rows)))
    return rows.view(*index.shape, -1).max(dim=2).values


@pytest.mark.parametrize("channels", [0, 5])
def test_ball_network_equals_its_plain_form(channels):
    torch.manual_seed(0)
    points = cloud(2, 64).double()
    centres = points[:, :10] + 0.01
    features = torch.randn(2, 64, channels).double() if channels else None
    net = BallNet(channels, Scale(0.8, 16, (8, 9, 10))).double()
    inputs = [value for value in (points, features, centres) if value is not None]
    results = []
    for compute in (net, lambda *arguments: plain_ball_net(net, *arguments)):
        for value in inputs:
            value.requires_grad_()
        output = compute(points, features, centres)
        loss = (output * torch.linspace(-1, 1, 10).double()).sum()
        results.append((output, *torch.autograd.grad(loss, [*inputs, *net.parameters()])))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


@torch.no_grad()
def test_pointnet2_pools_the_points_that_it_names():
    network = pointnet2_ssg().eval()
    points = cloud(2)
    seen = []
    network.last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    output = network(points)
    assert torch.equal(seen[0][:, :, :3], gather_rows(points, output.point_index))
    # its two samples are the farthest-point sample of the one before, as the paper has it
    first = gather_rows(points, farthest_point_sample(points, 512))
    second = gather_rows(first, farthest_point_sample(first, 128))
    assert torch.equal(second, gather_rows(points, output.point_index))


@pytest.mark.parametrize(
    ("name", "task"),
    [("pointnet2_ssg", task) for task in TASKS]
    + [slow_if(True, name, task) for name in ("pointnet2_msg", "curvenet") for task in TASKS]
    + [(name, "classification") for name in ("pointmlp_elite", "pointnext_s")],
)
def test_stored_order_stands_for_the_sample_that_it_is(name, task):
    """In farthest-point order the two samplings are the same network; in another order they are
    not, and the embeddings are then those of the first points."""
    clouds = cloud(2, 600, seed=3)
    ordered = gather_rows(clouds, farthest_point_sample(clouds, 600))
    category = torch.tensor([0, 1]) if task == "segmentation" else None
    outputs = []
    for sampling in ("farthest", "stored"):
        torch.manual_seed(0)
        student = build_student(name, 5, "default", task, 2, sampling=sampling).eval()
        with torch.no_grad():
            outputs.append([student(points, category).logits for points in (ordered, clouds)])
    (farthest, farthest_other), (stored, stored_other) = outputs
    assert torch.equal(farthest, stored)
    assert not torch.allclose(farthest_other, stored_other)


def test_the_sample_of_a_sample_is_its_beginning():
    """What CurveNet's later reductions rely on, also where points coincide."""
    points = cloud(2, 300, seed=5)
    points[1, 40:] = points[1, :1]
    kept = gather_rows(points, farthest_point_sample(points, 128))
    again = gather_rows(kept, farthest_point_sample(kept, 64))
    assert torch.equal(again, kept[:, :64])


def test_networks_that_keep_all_points_have_no_sampling():
    with pytest.raises(ConfigError, match="pointnet keeps all points"):
        build_student("pointnet", 5, sampling="stored")
    with pytest.raises(ConfigError, match="unknown sampling 'store'.*'stored'"):
        build_student("curvenet", 5, sampling="store")
