"""Banks: what is written comes back, by any rows, and nothing is read before it is asked for."""

import json
import pickle
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader

import data.bank
from data.bank import PROVENANCE, Bank, write_bank
from data.storage import open_split
from utils.errors import DataError

IDS = [f"class/{number}" for number in (7, 3, 9, 1, 5, 8)]
KNOWN = dict.fromkeys(PROVENANCE, "some") | {"data_hash": {"train": "some"}}


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "view_codes": generator.random((6, 4, 7)),
        "codes": generator.random((6, 7)),
        "view_tokens": generator.normal(size=(6, 4, 2, 3)),
        "area": generator.random(6),
    }


@pytest.fixture
def path(tmp_path):
    write_bank(tmp_path / "bank.h5", IDS, arrays(), KNOWN)
    return tmp_path / "bank.h5"


def test_arrays_of_any_name_and_width_come_back(path):
    bank = Bank(path)
    assert bank.names == ["area", "codes", "view_codes", "view_tokens"]
    assert [bank.shape(name) for name in bank.names] == [(), (7,), (4, 7), (4, 2, 3)]
    assert [bank.signed(name) for name in bank.names] == [False, False, False, True]
    assert bank.provenance == KNOWN and bank.ids == IDS
    rows = bank.locate(["class/9", "class/5", "class/7"])
    assert rows.dtype == np.int64 and rows.tolist() == [2, 4, 0]
    for name, array in arrays().items():
        found = bank.read(name, rows)
        assert found.dtype == bank.dtype(name) == np.float16
        assert np.array_equal(found, array.astype(np.float16)[rows])
    with pytest.raises(DataError, match="lacks 1 of 2 shapes, such as class/2"):
        bank.locate(["class/9", "class/2"])
    with pytest.raises(DataError, match="holds no logits, it has area, codes, view_codes"):
        bank.read("logits", rows)


@pytest.mark.parametrize(
    ("rows", "reads"),
    [([0, 1, 2, 3, 4, 5], 1), ([5, 0, 4, 1, 3, 2], 1), ([4, 1, 1, 4, 2], 1), ([5, 0], 2), ([], 1)],
)
@pytest.mark.parametrize("views", [None, [2, 0], []])
def test_rows_in_any_order_are_one_read_unless_they_are_far_apart(
    path, monkeypatch, rows, reads, views
):
    bank, counted = Bank(path), []
    read = h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda self, key: counted.append(key) or read(self, key)
    )
    rows = np.array(rows, dtype=np.int64)
    found = bank.read("view_tokens", rows, views if views is None else np.array(views, dtype=int))
    expected = arrays()["view_tokens"].astype(np.float16)[rows]
    assert np.array_equal(found, expected if views is None else expected[:, views])
    assert len(counted) == reads


def test_opening_reads_no_array(path, monkeypatch):
    with h5py.File(path, "r+") as file:
        file["view_codes"][3, 2, 1] = np.nan
    seen, read = [], h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda self, key: seen.append(self.name) or read(self, key)
    )
    bank = Bank(path)
    assert seen == ["/ids"]
    bank.read("view_codes", np.array([5, 0]))
    bank.read("view_codes", np.array([3]), views=np.array([0, 3]))
    monkeypatch.setattr(data.bank, "CHECKED", 2)
    with pytest.raises(DataError, match="bank.h5: view_codes of class/1 is not finite"):
        bank.read("view_codes", np.array([5, 0, 3, 1]))


def test_a_bank_goes_to_other_processes(path):
    bank = Bank(path)
    expected = bank.read("codes", np.arange(6))  # its file is open here
    assert np.array_equal(pickle.loads(pickle.dumps(bank)).read("codes", np.arange(6)), expected)
    loader = DataLoader(
        np.arange(6).reshape(3, 2),
        batch_size=None,
        num_workers=1,
        collate_fn=Reader(bank),
        multiprocessing_context="fork",
    )
    assert np.array_equal(np.concatenate(list(loader)), expected)


class Reader:
    def __init__(self, bank: Bank):
        self.bank = bank

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self.bank.read("codes", rows)


def test_equal_content_gives_equal_bytes_and_what_is_broken_none(path, tmp_path):
    write_bank(tmp_path / "again.h5", IDS, arrays(), KNOWN)
    assert path.read_bytes() == (tmp_path / "again.h5").read_bytes()
    for value in (np.inf, np.nan, 1e5):  # the last is too large for float16
        with pytest.raises(DataError, match="codes of the teacher are not finite"):
            write_bank(path, IDS, {"codes": np.full((6, 2), value)}, KNOWN)
    for name, array in (("a b", np.ones(6)), ("ids", np.ones(6)), ("view_x", np.ones(6))):
        with pytest.raises(ValueError, match="no place for"):
            write_bank(path, IDS, {name: array}, KNOWN)
    with pytest.raises(ValueError, match="5 rows for 6 ids"):
        write_bank(path, IDS, {"codes": np.ones((5, 2))}, KNOWN)
    assert path.read_bytes() == (tmp_path / "again.h5").read_bytes()


def test_banks_of_version_1_stay_readable(workshop, tmp_path):
    path = tmp_path / "old.h5"
    shutil.copy(workshop.bank, path)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 1
        for name in file.keys() - {"ids"}:
            del file[name].attrs["signed"]
    old, new = Bank(path), Bank(workshop.bank)
    assert old.names == new.names == ["codes", "logits", "view_codes", "view_logits"]
    for name in old.names:
        assert old.signed(name) == new.signed(name) == ("logits" in name)
        assert np.array_equal(old.read(name, np.arange(80)), new.read(name, np.arange(80)))
    old.check(open_split("Tiny", "test", workshop.root))


def test_everything_that_does_not_fit_is_named(path):
    split = SimpleNamespace(
        name="Other", split="train", ids=["x", *IDS], num_views=3, recipe_hash="r", data_hash="some"
    )
    with pytest.raises(DataError) as caught:
        Bank(path).check(split)
    for part in ("data set 'some', expected 'Other'", "4 views, expected 3", "1 shapes without"):
        assert part in str(caught.value)
    assert "train shapes" not in str(caught.value)


def without(key):
    def change(file):
        provenance = json.loads(file.attrs["provenance"])
        del provenance[key]
        file.attrs["provenance"] = json.dumps(provenance)

    return change


def stored_as(name, convert):
    def change(file):
        array = convert(file[name][()])
        del file[name]
        file[name] = array

    return change


def emptied(file):
    for name in file.keys() - {"ids"}:
        del file[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("data_name"), "lacks data_name"),
        (lambda f: f.attrs.__setitem__("provenance", "[]"), "lacks data_name, data_hash"),
        (lambda f: f.attrs.__setitem__("version", 3), "version 3, expected up to 2"),
        (stored_as("codes", lambda a: a.astype("f4")), "codes is float32"),
        (stored_as("codes", lambda a: a[1:]), r"codes is float16 \(5, 7\)"),
        (stored_as("codes", lambda a: np.float16(1)), r"codes is float16 \(\)"),
        (stored_as("view_codes", lambda a: a[:, 0, 0]), r"view_codes is float16 \(6,\)"),
        (stored_as("view_codes", lambda a: np.array([b"x"] * len(a))), "view_codes is"),
        (stored_as("ids", lambda a: np.arange(len(a))), "damaged"),
        (stored_as("codes", lambda a: a), "damaged.*signed"),
        (lambda f: f.create_group("more"), "damaged"),
        (emptied, "no array"),
    ],
)
def test_damaged_banks_are_refused(path, change, message):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=f"bank.h5.*{message}"):
        Bank(path)
