"""What is saved is what is loaded, and nothing else is taken for it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibrant.errors import DataError, OutputError
from calibrant.stats import TensorStats, load_statistics, save_statistics


@pytest.fixture
def stats():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 5, 3000)).astype(np.float32)
    return {
        "bins": TensorStats.of(x),
        "by channel": TensorStats.of(x, by_channel=(0, 1)),
        "many by channel": TensorStats.of(np.tile(x, (20, 7, 1)), by_channel=(1,)),
        "raw by channel": TensorStats.exact(x, by_channel=(1,)),
        "raw/1:0": TensorStats.exact(x[0]),
        "few": TensorStats.of(x[0, 0, :7]),
        "empty": TensorStats.of(x[:0]),
        "nan": TensorStats.of(np.array([1.0, np.nan])),
    }


def test_round_trip(tmp_path, stats):
    path = tmp_path / "stats.npz"
    save_statistics(path, stats, digest="abc")
    loaded, digest = load_statistics(path, digest="abc")
    assert digest == load_statistics(path)[1] == "abc"
    assert list(loaded) == list(stats)
    for name, value in stats.items():
        assert loaded[name] == value
        assert loaded[name].merge(value) == value.merge(value)
    assert [p.name for p in tmp_path.iterdir()] == ["stats.npz"]


def test_no_statistics(tmp_path):
    save_statistics(tmp_path / "s", {}, digest="abc")
    assert load_statistics(tmp_path / "s", digest="abc") == ({}, "abc")


def test_another_digest(tmp_path, stats):
    save_statistics(tmp_path / "s", stats, digest="abc")
    with pytest.raises(DataError, match=r"another model .digest 'abc', wanted 'xyz'"):
        load_statistics(tmp_path / "s", digest="xyz")


def test_missing_truncated_and_foreign_files(tmp_path, stats):
    path = tmp_path / "s"
    with pytest.raises(DataError, match="no statistics file"):
        load_statistics(path, digest="abc")
    save_statistics(path, stats, digest="abc")
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a statistics file, or is damaged"):
            load_statistics(path, digest="abc")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    with pytest.raises(DataError, match="not a statistics file"):
        load_statistics(tmp_path / "other.npz", digest="abc")


def test_contents_that_do_not_match_the_table(tmp_path):
    entry = {"name": "x", "keep": False, "nonfinite": 0}
    header = {"version": 2, "digest": "d", "tensors": [entry | {"kind": "exact", "size": 9}]}
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(tmp_path / "s.npz", header=text, values=np.ones(3, dtype=np.float32))
    with pytest.raises(DataError, match="'values' is too short"):
        load_statistics(tmp_path / "s.npz", digest="d")
    header["version"] = 99
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(tmp_path / "s.npz", header=text)
    with pytest.raises(DataError, match="version 99"):
        load_statistics(tmp_path / "s.npz", digest="d")


def test_a_folder_that_cannot_be_written_keeps_what_was_there(tmp_path, stats):
    path = tmp_path / "gone" / "s.npz"
    with pytest.raises(OutputError, match="cannot be written"):
        save_statistics(path, stats, digest="abc")
