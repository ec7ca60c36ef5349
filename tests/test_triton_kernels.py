"""The Triton kernels against tensor code: interpreted on a CPU, compiled where there is a GPU.

Without a GPU two tests stand for the rest: one runs this module again in a process in which Triton
interprets its kernels, at small sizes; the other compiles every kernel for real devices and looks
at what the compiler made of it.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from helpers import check_matching

from models.kernels import plain

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.kernels import cuda, cuda_matching, cuda_points, cuda_projection

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
runs = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a GPU or TRITON_INTERPRET=1"
)
on_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")
alone = pytest.mark.skipif(INTERPRETED, reason="is about the compiler")
# the interpreter truncates where it narrows a float, devices round to nearest
NARROWED = {torch.float32: 0.0, torch.bfloat16: 2**-7, torch.float16: 2**-10}

TYPES = [torch.float32, torch.bfloat16, torch.float16]
# B, M, C, V: one of everything, odd sizes, more than one chunk and tile of channels, all bits
SIZES = [(2, 1, 1, 1), (2, 9, 5, 3), (1, 150, 70, 5), (1, 21, 33, 31), (1, 37, 8, 32)]
LARGE = [(32, 1024, 1024, 12), (16, 2048, 1024, 16), (3, 1000, 515, 32), (2, 130, 129, 20)]


def drawn(*shape: int, kind: str = "signed", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    if kind == "ties":
        x = (2 * x).round() / 2
    if kind == "strange":  # what is no number, both infinities, both zeros
        odd = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0])
        where = torch.arange(x.numel()) % 7 == 3
        x.view(-1)[where] = odd.repeat(x.numel())[: int(where.sum())]
    return x.to(DEVICE, dtype)


def seen(batch: int, count: int, views: int, share: float = 0.4) -> torch.Tensor:
    """(B, M) int32 of visibility bits; view 0 of the first sample sees nothing, the last all."""
    visible = torch.rand(batch, count, views, generator=torch.manual_seed(count)) < share
    visible[-1, :, -1] = True
    visible[0, :, 0] = False
    bits = (visible.long() << torch.arange(views)).sum(dim=2)
    return bits.to(torch.int32).to(DEVICE)  # bit 31 is the sign


def cloud(*shape: int, kind: str = "random", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "lattice":  # many equal points and equal distances
        return torch.randint(-2, 3, shape, generator=generator).float().to(DEVICE)
    return (torch.rand(*shape, generator=generator) * 2 - 1).to(DEVICE)


def check_projection(features: torch.Tensor, bits: torch.Tensor, views: int) -> None:
    pooled, row = cuda.visible_max(features, bits, views)
    expected, expected_row = plain.visible_max(features, bits, views)
    assert pooled.dtype == features.dtype and row.dtype == torch.int16
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(row, expected_row)
    upstream = drawn(*pooled.shape, dtype=features.dtype)
    found = cuda.visible_max_backward(upstream, row, features.shape[1])
    assert found.dtype == features.dtype and found.shape == features.shape
    exact = plain.visible_max_backward(upstream.double(), row, features.shape[1])
    # float32 sums of at most 32 terms, rounded once to the type of the gradient
    size = plain.visible_max_backward(upstream.double().abs(), row, features.shape[1])
    error = (found.double() - exact).abs()
    assert (error <= 32 * 2**-24 * size + NARROWED[found.dtype] * exact.abs()).all()


@runs
@pytest.mark.parametrize(
    ("size", "dtype"),
    [(size, torch.float32) for size in SIZES] + [(SIZES[1], dtype) for dtype in TYPES[1:]],
    ids=str,
)
def test_visible_maxima_and_gradients_are_those_of_tensor_code(size, dtype):
    batch, count, channels, views = size
    check_projection(drawn(batch, count, channels, dtype=dtype), seen(batch, count, views), views)


@runs
@pytest.mark.parametrize("kind", ["ties", "strange"])
def test_equal_and_strange_embeddings_keep_the_lowest_row(kind):
    check_projection(drawn(2, 45, 6, kind=kind), seen(2, 45, 5), 5)


@runs
def test_a_view_whose_embeddings_are_all_minus_infinity_and_one_that_sees_nothing():
    features = torch.full((1, 140, 3), -torch.inf, device=DEVICE)
    bits = torch.zeros(1, 140, dtype=torch.int32, device=DEVICE)
    bits[0, 133:] = 4
    pooled, row = cuda.visible_max(features, bits, 3)
    assert pooled.tolist() == [[[0.0] * 3, [0.0] * 3, [-torch.inf] * 3]]
    assert row.tolist() == [[[-1] * 3, [-1] * 3, [133] * 3]]


@runs
def test_views_of_one_point_add_up_in_their_order():
    """1e8 + 1 - 1e8 is 0 in float32, in another order 1."""
    gradient = torch.tensor([1e8, 1.0, -1e8, 5.0], device=DEVICE).view(1, 4, 1)
    row = torch.tensor([2, 2, 2, -1], dtype=torch.int16, device=DEVICE).view(1, 4, 1)
    assert cuda.visible_max_backward(gradient, row, 4).flatten().tolist() == [0, 0, 0, 0]
    row[0, 3] = 1
    assert cuda.visible_max_backward(gradient, row, 4).flatten().tolist() == [0, 5, 0, 0]


@runs
@pytest.mark.parametrize(("kind", "start"), [("random", 0), ("lattice", 1), ("random", 149)])
def test_farthest_points_are_those_of_tensor_code(kind, start):
    points = cloud(2, 150, 3, kind=kind)
    found = cuda.farthest_point_sample(points, 40, start)
    assert found.dtype == torch.int64
    assert torch.equal(found, plain.farthest_point_sample(points, 40, start))
    points[:, 5:30] *= 0.01
    found = cuda.farthest_point_sample(points, 140, start, True)
    assert torch.equal(found, plain.farthest_point_sample(points, 140, start, True))


@runs
@pytest.mark.parametrize(
    ("kind", "radius", "k"),
    [("lattice", 0.4, 1), ("random", 0.5, 8), ("lattice", 1.0, 20), ("lattice", 2.5, 150)],
)
def test_balls_are_those_of_tensor_code(kind, radius, k):
    points, centres = cloud(2, 140, 3, kind=kind), cloud(2, 11, 3, seed=1)
    centres[:, :3] = points[:, :3]
    centres[0, 4] += 20  # an empty ball, which takes the nearest point
    found = cuda.ball_query(points, centres, radius, k)
    assert torch.equal(found, plain.ball_query(points, centres, radius, k))


@runs
def test_closed_balls_and_the_nearest_point_of_empty_ones():
    points = torch.tensor([[[3.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]], device=DEVICE)
    centres = torch.tensor([[[0.0, 0, 0], [9.0, 0, 0], [0.0, 5.0, 0]]], device=DEVICE)
    expected = [[[1, 2, 1], [0, 0, 0], [1, 1, 1]]]
    assert cuda.ball_query(points, centres, 1.0, 3).tolist() == expected


@runs
@pytest.mark.parametrize(
    ("kind", "count", "axes", "k"),
    [
        ("lattice", 20, 3, 20),
        ("lattice", 150, 2, 7),
        ("lattice", 700, 3, 20),
        ("random", 700, 3, 9),
    ],
)
def test_neighbours_are_those_of_tensor_code(kind, count, axes, k):
    points, queries = cloud(2, count, axes, kind=kind), cloud(2, 5, axes, kind=kind, seed=1)
    assert torch.equal(cuda.knn(points, queries, k), plain.knn(points, queries, k))


@runs
@pytest.mark.parametrize("kind", ["ties", "strange"])
@pytest.mark.parametrize(("count", "k"), [(5, 5), (60, 60), (300, 20), (513, 64)])
def test_the_smallest_of_rows_are_those_of_tensor_code(kind, count, k):
    values = drawn(2, 3, count, kind=kind)
    assert torch.equal(cuda.smallest(values, k), plain.smallest(values, k))


@runs
@pytest.mark.parametrize("kind", ["random", "lattice"])
@pytest.mark.parametrize("count", [1, 2, 21])
def test_the_matching_is_near_the_optimum(kind, count):
    a, b = cloud(2, count, 3, kind=kind), cloud(2, count, 3, kind=kind, seed=1)
    b[1] = a[1].flip(0) + 0.01  # nearly equal clouds
    check_matching(a, b, cuda.match(a, b))


@runs
def test_who_is_left_when_the_rounds_run_out_gets_what_is_left(monkeypatch):
    a, b = cloud(2, 37, 3), cloud(2, 37, 3, seed=1)
    monkeypatch.setattr(cuda_matching, "BLOCK", 16)
    for rounds in (1, 5, 17):
        monkeypatch.setattr(cuda_matching, "ROUNDS", rounds)
        matched = cuda.match(a, b)
        assert torch.equal(matched.sort(dim=1).values.cpu(), torch.arange(37).expand(2, -1))


@runs
def test_a_cloud_that_is_not_finite_gets_a_matching():
    a, b = cloud(1, 9, 3), cloud(1, 9, 3, seed=1)
    a[0, 3, 1], b[0, 4, 0] = torch.nan, torch.inf
    assert cuda.match(a, b).sort(dim=1).values.tolist() == [list(range(9))]


@runs
def test_what_the_kernels_do_not_hold_is_left_to_tensor_code(monkeypatch):
    points, queries, values = cloud(2, 60, 3), cloud(2, 3, 3), drawn(2, 4, 60)
    usual = [cuda.farthest_point_sample(points, 9, 0), cuda.knn(points, queries, 9)]
    usual.append(cuda.smallest(values, 9))
    used = []
    for name in ("farthest_point_sample", "knn", "smallest"):
        kept = getattr(plain, name)
        monkeypatch.setattr(
            plain, name, lambda *a, kept=kept, name=name: used.append(name) or kept(*a)
        )
    monkeypatch.setattr(cuda_points, "MOST_SAMPLED", 59)
    monkeypatch.setattr(cuda_points, "MOST_NEIGHBOURS", 8)
    left = [cuda.farthest_point_sample(points, 9, 0), cuda.knn(points, queries, 9)]
    left.append(cuda.smallest(values, 9))
    assert set(used) == {"farthest_point_sample", "knn", "smallest"}
    assert all(torch.equal(one, other) for one, other in zip(usual, left, strict=True))


@alone
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels themselves run on the GPU")
def test_the_kernels_interpreted_on_a_cpu():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 25


constructible = pytest.mark.skipif(
    "constexprs" not in inspect.signature(ASTSource).parameters,
    reason="Triton below 3.2 describes a kernel in another way",
)


def signature(kernel, types: dict[str, str]) -> tuple[dict, dict, dict]:
    """Types, constants and attributes of a kernel as a launch at usual sizes would give them."""
    constants = {name: value for name, value in types.items() if not isinstance(value, str)}
    kinds = {name: types.get(name, "i32") for name in kernel.arg_names}
    kinds |= dict.fromkeys(constants, "constexpr")
    # tensors begin, and the usual numbers of points and channels divide, at multiples of sixteen
    wide = [
        name
        for name, kind in kinds.items()
        if kind.startswith("*") or (kind == "i32" and name in ("count", "channels"))
    ]
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in wide}
    return kinds, constants, aligned


def compiled(kernel, types: dict, capability: int, warps: int):
    kinds, constants, aligned = signature(kernel, types)
    source = ASTSource(fn=kernel, signature=kinds, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, **cuda_points.EXACT}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def assembled(binary: bytes, folder: Path) -> dict[str, int]:
    """What the assembler gave the kernel: REG for each thread, STACK bytes (where it spills)."""
    (folder / "kernel.cubin").write_bytes(binary)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    words = [str(tool), "-res-usage", str(folder / "kernel.cubin")]
    report = subprocess.run(words, capture_output=True, text=True, check=True)
    found = re.findall(r"(REG|STACK|LOCAL):(\d+)", report.stdout + report.stderr)
    return {name: int(value) for name, value in found}


def maxima(dtype: str, views: int):
    some, rest = cuda_projection.groups(views)
    types = {"features": dtype, "lists": "*i16", "lengths": "*i32", "first": "*i32"}
    types |= {"pooled": dtype, "rows": "*i16", "SOME": some, "REST": rest}
    types |= {"VIEWS": triton.next_power_of_2(views), "CHANNELS": cuda_projection.CHANNELS}
    return cuda_projection.maximum_kernel, types, cuda_projection.WARPS


def gradients(dtype: str):
    types = {"gradient": dtype, "row": "*i16", "out": dtype}
    types |= {"ROWS": cuda_projection.BACKWARD_ROWS}
    types |= {"CHANNELS": cuda_projection.BACKWARD_CHANNELS}
    return cuda_projection.gradient_kernel, types, 1


def lists():
    types = {"bits": "*i32", "lists": "*i16", "lengths": "*i32", "first": "*i32"}
    return cuda_projection.list_kernel, types, 1


def samples(count: int):
    launch = cuda_points.whole_cloud(count)
    warps = launch.pop("num_warps")
    return cuda_points.sample_kernel, {"points": "*fp32", "chosen": "*i64", **launch}, warps


def balls(k: int):
    types = {"points": "*fp32", "centres": "*fp32", "found": "*i64", "limit": "fp32"}
    types |= {"SLOTS": k, "CENTRES": cuda_points.CENTRES, "POINTS": cuda_points.POINTS}
    return cuda_points.ball_kernel, types, 1


def searches(count: int, of_values: bool):
    launch = cuda_points.columns(count)
    warps = launch.pop("num_warps")
    if of_values:
        return cuda_points.smallest_kernel, {"values": "*fp32", "found": "*i64", **launch}, warps
    types = {"points": "*fp32", "queries": "*fp32", "found": "*i64", "AXES": 3}
    return cuda_points.nearest_kernel, types | launch, warps


def auctions(count: int):
    launch = cuda_matching.launch(count)
    warps = launch.pop("num_warps")
    types = dict.fromkeys(("a", "b", "limits", "price"), "*fp32")
    types |= {"owner": "*i32", "ring": "*i32", "mine": "*i64"}
    return cuda_matching.auction_kernel, types | launch, warps


USUAL = {
    "lists": lists(),
    **{f"maxima {t} {v}": maxima(t, v) for t in ("*fp32", "*bf16") for v in (1, 12, 16, 32)},
    **{f"gradients {t}": gradients(t) for t in ("*fp32", "*bf16", "*fp16")},
    **{f"samples {n}": samples(n) for n in (1024, 2048, 8192)},
    **{f"balls {k}": balls(k) for k in (16, 32, 64)},
    **{f"neighbours {n}": searches(n, False) for n in (1024, 2048, 4096)},
    **{f"smallest {n}": searches(n, True) for n in (1024, 2048, 4096)},
    **{f"auctions {n}": auctions(n) for n in (64, 1024)},
}
ONE_OF_EACH = ["lists", "maxima *fp32 1", "gradients *fp32", "samples 1024", "balls 16"]
ONE_OF_EACH += ["neighbours 1024", "smallest 1024", "auctions 1024"]


@alone
@constructible
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "capability"), [(name, 90) for name in USUAL] + [(name, 80) for name in ONE_OF_EACH]
)
def test_every_kernel_compiles_for_real_devices(name, capability, tmp_path):
    """Without a GPU: nothing spills to memory, and no distance is a fused multiply-add."""
    kernel, types, warps = USUAL[name]
    made = compiled(kernel, types, capability, warps)
    assert "fma" not in made.asm["ptx"]
    used = assembled(made.asm["cubin"], tmp_path)
    assert used["LOCAL"] == 0 and used["STACK"] <= 8
    # a block that needs more than 65,536 registers cannot be launched
    assert used["REG"] * 32 * warps <= 65536
    assert made.metadata.shared <= 16 * 1024


@alone
@constructible
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_kernel_compiles_where_all_sizes_are_one(name):
    """A launch makes a constant of an integer that is 1, which is another program."""
    kernel, types, warps = USUAL[name]
    numbers = set(kernel.arg_names) - set(types) - {"start", "rounds"}
    compiled(kernel, types | dict.fromkeys(numbers, 1), 90, warps)


@on_gpu
@pytest.mark.parametrize("size", LARGE, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_projection_at_real_sizes(size, dtype):
    batch, count, channels, views = size
    check_projection(drawn(batch, count, channels, dtype=dtype), seen(batch, count, views), views)


@on_gpu
@pytest.mark.parametrize("count", [1000, 1024, 2048, 4096])
def test_points_at_real_sizes(count):
    points = cloud(8, count, 3)
    chosen = cuda.farthest_point_sample(points, 512, 0)
    assert torch.equal(chosen, plain.farthest_point_sample(points, 512, 0))
    centres = points.gather(1, chosen.unsqueeze(2).expand(-1, -1, 3))
    for radius, k in ((0.1, 16), (0.2, 32), (0.4, 64)):
        found = cuda.ball_query(points, centres, radius, k)
        assert torch.equal(found, plain.ball_query(points, centres, radius, k))
    for k in (3, 20, 32, 64):
        assert torch.equal(cuda.knn(points, centres, k), plain.knn(points, centres, k))
    values = drawn(4, 512, count, kind="ties")
    assert torch.equal(cuda.smallest(values, 20), plain.smallest(values, 20))


@on_gpu
@pytest.mark.parametrize("count", [1000, 1024, 2500])
def test_the_matching_at_real_sizes(count):
    a, b = cloud(4, count, 3), cloud(4, count, 3, seed=1)
    b[1], b[2] = 0.1 * b[1], a[2].flip(0) + 0.01 * b[2]
    check_matching(a, b, cuda.match(a, b))


@on_gpu
def test_no_kernel_waits_for_the_device():
    points, features, bits = cloud(4, 1024, 3), drawn(4, 1024, 64), seen(4, 1024, 12)

    def everything() -> None:
        cuda.farthest_point_sample(points, 64, 0)
        cuda.ball_query(points, points, 0.2, 32)
        cuda.knn(points, points, 20)
        cuda.smallest(features, 20)
        cuda.match(points, points.flip(1) + 0.1)
        pooled, row = cuda.visible_max(features, bits, 12)
        cuda.visible_max_backward(pooled, row, 1024)

    everything()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")
