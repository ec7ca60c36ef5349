"""Weights from elsewhere: reading a foreign file, and refusing what does not fit."""

import pytest
import torch
from torch import nn

from utils.errors import ConfigError, DataError
from utils.weights import load_matching, read_state


def network(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def equal(state, other) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict", "net", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_is_unwrapped(tmp_path, wrapper, prefix):
    state = network().state_dict()
    content = {prefix + name: value for name, value in state.items()}
    content = content if wrapper is None else {"epoch": 3, wrapper: content}
    torch.save(content, tmp_path / "file.pth")
    assert equal(read_state(tmp_path / "file.pth"), state)


def test_a_prefix_that_not_all_names_have_is_a_part_of_them(tmp_path):
    state = {"module.weight": torch.zeros(1), "bias": torch.zeros(1)}
    torch.save(state, tmp_path / "file.pth")
    assert read_state(tmp_path / "file.pth").keys() == state.keys()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.zeros(1)], "found list"),
        ({}, "found {}"),
        ({"layers": {"weight": torch.zeros(1)}}, r"found 'layers' \(dict\)"),
        ({"state_dict": {"weight": 1}}, r"found 'state_dict' \(dict\)"),
        ({str(n): n for n in range(9)}, "and 3 more"),
    ],
)
def test_what_is_no_state_dict_is_outlined(tmp_path, content, found):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(DataError, match=f"holds no state dict: .*{found}"):
        read_state(tmp_path / "file.pth")


def test_a_file_is_missing_or_holds_code(tmp_path):
    with pytest.raises(DataError, match="no weights at"):
        read_state(tmp_path / "file.pth")
    torch.save(network(), tmp_path / "file.pth")
    with pytest.raises(DataError, match="holds Python objects"):
        read_state(tmp_path / "file.pth")


def test_all_that_fits_is_loaded_and_counters_may_be_missing():
    own, state = network(), network().state_dict()
    load_matching(own, state, "file", "ours")
    assert equal(own.state_dict(), state)
    own = network()
    load_matching(own, {k: v for k, v in state.items() if "num_batches" not in k}, "file", "ours")
    assert equal(own.state_dict(), state)


def test_what_does_not_fit_is_counted_and_nothing_is_loaded():
    own = network()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    state = {**network(4).state_dict(), "2.weight": torch.zeros(1)}
    del state["0.bias"]
    with pytest.raises(DataError) as caught:
        load_matching(own, state, "file.pth", "ours")
    assert str(caught.value) == (
        "file.pth: its weights do not fit ours: 1 missing (0.bias), 1 unexpected (2.weight), "
        "5 of another shape (0.weight, 1.bias, 1.running_mean, ...); expected those of the same "
        "network"
    )
    assert equal(own.state_dict(), before)


def test_only_the_wanted_names_are_compared_and_loaded():
    own, state = network(), {**network(4).state_dict(), **network().state_dict(), "head": 1}
    kept = own[1].weight.clone()
    state["1.weight"] = torch.full((9,), 7.0)
    load_matching(own, state, "file", "ours", lambda name: name.startswith("0."))
    assert torch.equal(own[0].weight, state["0.weight"]) and torch.equal(own[1].weight, kept)
    with pytest.raises(ConfigError, match="1 of another shape"):
        load_matching(own, {**state, "0.bias": 1}, "f", "ours", lambda n: n[0] == "0", ConfigError)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ([], "found list"),
        ({1: torch.zeros(2)}, r"1 unexpected \(1\)"),
        ({"0.weight": [[1.0, 2.0]] * 3}, r"1 of another shape \(0.weight\)"),
    ],
)
def test_what_is_no_state_dict_does_not_fit(state, found):
    with pytest.raises(DataError, match=found):
        load_matching(network(), state, "file.pth", "a network")
