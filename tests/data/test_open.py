from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.data.open import Batches, InputInfo, open_data
from calibrant.data.sources import arrays as arrays_source
from calibrant.errors import ConfigValueError, DataError

IMAGE = InputInfo("x", ("N", 3, 4, 5), np.dtype(np.float32))
IDS = InputInfo("ids", ("N", "seq"), np.dtype(np.int64))
MASK = InputInfo("mask", ("N", "seq"), np.dtype(np.int64))


def images(n: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((n, 3, 4, 5)).astype(np.float32)


def joined(batches: Batches, name: str = "x") -> np.ndarray[Any, Any]:
    return np.concatenate([b.feeds[name] for b in batches])


# ------------------------------------------------------------------------------------ what comes out


@given(n=st.integers(1, 40), size=st.integers(1, 50), num=st.none() | st.integers(1, 10))
def test_batches_are_the_samples_in_order(n: int, size: int, num: int | None) -> None:
    x = images(n)
    batches = open_data({"x": x}, [IMAGE], batch_size=size, batch_num=num)
    used = n if num is None else min(n, size * num)
    seen = list(batches)
    np.testing.assert_array_equal(joined(batches), x[:used])
    assert batches.samples == used == sum(b.size for b in seen)
    assert batches.batches == len(seen)
    assert [b.first for b in seen] == list(range(0, used, size))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 9))
def test_feeds_of_any_size_are_regrouped(sizes: list[int], size: int) -> None:
    x = images(sum(sizes))
    parts = np.split(x, np.cumsum(sizes)[:-1])
    batches = open_data(
        [{"x": p, "labels": np.arange(len(p))} for p in parts], [IMAGE], batch_size=size
    )
    seen = list(batches)
    np.testing.assert_array_equal(np.concatenate([b.feeds["x"] for b in seen]), x)
    assert all(b.size == size for b in seen[:-1])
    labels = np.concatenate([np.arange(s) for s in sizes])
    np.testing.assert_array_equal(np.concatenate([b.extras["labels"] for b in seen]), labels)


def test_feeds_are_contiguous_and_in_the_models_type() -> None:
    x = np.asfortranarray(images(6).astype(np.float64))
    (batch,) = open_data({"x": x, "labels": np.arange(6)}, [IMAGE], batch_size=6)
    assert batch.feeds["x"].flags.c_contiguous
    assert batch.feeds["x"].dtype == np.float32
    assert set(batch.feeds) == {"x"}
    np.testing.assert_array_equal(batch.extras["labels"], np.arange(6))


def test_npz_reads_arrays_by_name(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.int32).reshape(4, 3)
    np.savez(tmp_path / "c.npz", mask=np.ones((4, 3), np.int64), ids=ids, labels=np.arange(4))
    batches = open_data(tmp_path / "c.npz", [IDS, MASK], batch_size=2)
    np.testing.assert_array_equal(joined(batches, "ids"), ids)
    assert next(iter(batches)).feeds["ids"].dtype == np.int64


def test_a_large_member_is_streamed_and_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays_source, "KEEP_BYTES", 100)
    x = images(11)
    np.savez_compressed(tmp_path / "c.npz", x=x)
    batches = open_data(tmp_path / "c.npz", [IMAGE], batch_size=4)
    assert type(batches._source.columns["x"]).__name__ == "MemberColumn"  # type: ignore[union-attr]
    for _ in range(2):
        np.testing.assert_array_equal(joined(batches), x)


def test_npy_is_mapped_not_read(tmp_path: Path) -> None:
    x = images(5)
    np.save(tmp_path / "c.npy", x)
    (batch,) = open_data(str(tmp_path / "c.npy"), [IMAGE], batch_size=5)
    np.testing.assert_array_equal(batch.feeds["x"], x)
    assert not batch.feeds["x"].flags.owndata


def test_a_lone_unnamed_array_is_the_only_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", images(3))
    np.testing.assert_array_equal(joined(open_data(tmp_path / "c.npz", [IMAGE])), images(3))


def test_a_bare_array_and_a_list_per_input_are_data() -> None:
    x = images(5)
    np.testing.assert_array_equal(joined(open_data(x, [IMAGE])), x)
    np.testing.assert_array_equal(joined(open_data({"x": list(x)}, [IMAGE], batch_size=2)), x)
    np.testing.assert_array_equal(joined(open_data({"x": [v[None] for v in x]}, [IMAGE])), x)


class Tensor:
    """Looks like a torch tensor with a gradient on another device."""

    def __init__(self, value: np.ndarray[Any, Any]) -> None:
        self._value, self._detached, self._here = value, False, False
        self.shape = value.shape

    def detach(self) -> Tensor:
        self._detached = True
        return self

    def cpu(self) -> Tensor:
        self._here = True
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        assert self._detached
        assert self._here
        return self._value


def test_a_loader_of_tensor_pairs_gives_feeds_and_labels() -> None:
    x, y = images(6), np.arange(6)
    loader = [(Tensor(x[:4]), Tensor(y[:4])), (Tensor(x[4:]), Tensor(y[4:]))]
    batches = open_data(loader, [IMAGE])
    assert batches.batches == 2
    for _ in range(2):
        np.testing.assert_array_equal(joined(batches), x)
    assert [b.extras["labels"].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5]]


def test_targets_that_are_no_arrays_are_left_out_with_a_note() -> None:
    loader = [(images(2), [{"boxes": 1}, {"boxes": 2}])]
    batches = open_data(loader, [IMAGE])
    assert [b.extras for b in batches] == [{}]
    assert "labels" in batches.notes[0]


def test_single_samples_get_a_batch_axis() -> None:
    x = images(3)
    assert [b.feeds["x"].shape for b in open_data(list(x), [IMAGE])] == [(1, 3, 4, 5)] * 3
    assert [b.size for b in open_data(list(x), [IMAGE], batch_size=2)] == [2, 1]


def test_a_function_is_called_anew_for_each_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_batches.py").write_text(
        "import numpy as np\n"
        "def two():\n    for k in range(2):\n        yield {'x': np.full((2, 3, 4, 5), k, np.float32)}\n"
        "def table():\n    return {'x': np.zeros((3, 3, 4, 5), np.float32)}\n"
        "def broken():\n    yield np.zeros((1, 3, 4, 5), np.float32)\n    raise KeyError('camera')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    batches = open_data("my_batches:two", [IMAGE])
    assert not batches.once
    for _ in range(2):
        assert joined(batches)[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert open_data("my_batches:table", [IMAGE]).samples == 3
    with pytest.raises(DataError, match=r"my_batches:broken failed at feed 1: KeyError: 'camera'"):
        list(open_data("my_batches:broken", [IMAGE]))
    with pytest.raises(DataError, match=r"has no 'tvo'.* Did you mean 'two'"):
        open_data("my_batches:tvo", [IMAGE])
    with pytest.raises(DataError, match="module 'no_such_module' cannot be imported"):
        open_data("no_such_module:f", [IMAGE])


def test_an_iterator_serves_one_pass_and_says_so() -> None:
    def generate() -> Iterator[np.ndarray[Any, Any]]:
        yield images(2)

    batches = open_data(generate(), [IMAGE])
    assert batches.once
    assert len(list(batches)) == 1
    with pytest.raises(DataError, match="used up by the first pass"):
        list(batches)


# ----------------------------------------------------------------------------------- batch dimension


def test_a_fixed_batch_drops_the_partial_batch_with_a_note() -> None:
    fixed = InputInfo("x", (4, 3, 4, 5), np.dtype(np.float32))
    batches = open_data({"x": images(10)}, [fixed], batch_size=8)
    assert [b.size for b in batches] == [4, 4]
    assert any("last 2 of 10 samples" in n for n in batches.notes)
    assert any("batch size 8 became 4" in n for n in batches.notes)
    streamed = open_data([images(10)], [fixed])
    assert [b.size for b in streamed] == [4, 4]
    assert any("2 samples are left out" in n for n in streamed.notes)


def test_a_fixed_batch_with_nothing_left_is_an_error() -> None:
    fixed = InputInfo("x", (4, 3, 4, 5), np.dtype(np.float32))
    with pytest.raises(DataError, match="3 samples, fewer than the model's fixed batch of 4"):
        open_data({"x": images(3)}, [fixed])
    with pytest.raises(DataError, match="no batch of 4 samples"):
        list(open_data([images(3)], [fixed]))


def test_inputs_without_a_common_batch_take_one_feed_at_a_time() -> None:
    inputs = [
        InputInfo("x", (1, 2), np.dtype(np.float32)),
        InputInfo("size", (3,), np.dtype(np.int64)),
    ]
    x, size = np.ones((5, 1, 2), np.float32), np.arange(15).reshape(5, 3)
    batches = open_data({"x": x, "size": size}, inputs)
    feeds = [b.feeds for b in batches]
    assert [f["x"].shape for f in feeds] == [(1, 2)] * 5
    np.testing.assert_array_equal(np.stack([f["size"] for f in feeds]), size)
    assert [b.feeds["size"].shape for b in open_data([(x[0], size[0])], inputs)] == [(3,)]


def test_rebatched_yields_the_same_samples() -> None:
    batches = open_data({"x": images(7)}, [IMAGE], batch_size=4)
    np.testing.assert_array_equal(joined(batches.rebatched(1)), joined(batches))
    assert len(list(batches.rebatched(1))) == 7


def test_the_default_batch_stays_small_for_large_samples() -> None:
    big = InputInfo("x", ("N", 1 << 20), np.dtype(np.float32))
    assert open_data({"x": np.zeros((4, 1 << 20), np.float32)}, [big]).batch_size == 1
    assert open_data({"x": images(100)}, [IMAGE]).batch_size == 32


# -------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("data", "inputs", "text"),
    [
        ({"X": images(2)}, [IMAGE], r"no array for model input 'x'; it has 'X'.*Did you mean 'X'"),
        ({"x": images(0)}, [IMAGE], "is empty: 0 samples of input 'x'"),
        ({"x": images(2)[0, 0]}, [IMAGE], r"expects shape \(N, 3, 4, 5\), got \(4, 5\)"),
        ({"x": images(2)[:, :2]}, [IMAGE], r"expects shape \(N, 3, 4, 5\), got \(2, 2, 4, 5\)"),
        ({"x": np.float32(1)}, [IMAGE], r"expects shape \(N, 3, 4, 5\), got \(\)"),
        ({"x": images(2).transpose(0, 2, 3, 1)}, [IMAGE], "looks like NHWC"),
        (
            {"x": np.zeros((2, 3, 4, 5), np.uint8)},
            [IMAGE],
            "expects float32, got uint8.*preprocessing",
        ),
        ({"ids": np.zeros((2, 3))}, [IDS], "expects int64, got float64"),
        ({"x": [[1.0], [2.0, 3.0]]}, [IMAGE], "no rectangular array"),
        ({"x": {}}, [IMAGE], "holds Python objects"),
        (
            {"ids": np.zeros((2, 3), int), "mask": np.zeros((3, 3), int)},
            [IDS, MASK],
            "'ids' 2, 'mask' 3",
        ),
        ([], [IMAGE], "is empty: it yields no batch"),
        (
            [np.zeros((2, 3), int)],
            [IDS, MASK],
            "has 1 arrays, and the model has 2 inputs: ids, mask",
        ),
        ([{"ids": np.zeros((2, 3), int)}], [IDS, MASK], "no array for model input 'mask'"),
        (images(2), [IDS, MASK], "give a dict of arrays"),
        (3, [IMAGE], "The data is a int; it may be"),
        ("nowhere.npz", [IMAGE], "'nowhere.npz' does not exist"),
        ({"x": images(1)}, [], "no inputs"),
    ],
)
def test_wrong_data_is_explained(data: Any, inputs: list[InputInfo], text: str) -> None:
    with pytest.raises(DataError, match=text):
        list(open_data(data, inputs))


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_not_finite_names_input_sample_and_file(tmp_path: Path, bad: float, word: str) -> None:
    x = images(20)
    x[17, 1, 2, 3] = bad
    np.savez(tmp_path / "calib.npz", x=x)
    with pytest.raises(DataError, match=rf"sample 17 of .*calib.npz: input 'x' holds {word}"):
        list(open_data(tmp_path / "calib.npz", [IMAGE], batch_size=8))


def test_values_that_overflow_the_models_type_are_refused() -> None:
    half = InputInfo("x", ("N", 2), np.dtype(np.float16))
    with pytest.raises(DataError, match="holds infinity after the cast from float32 to float16"):
        open_data({"x": np.full((2, 2), 1e6, np.float32)}, [half])
    narrow = InputInfo("ids", ("N", 2), np.dtype(np.int32))
    with pytest.raises(DataError, match="do not fit"):
        open_data({"ids": np.full((2, 2), 2**40)}, [narrow])


@pytest.mark.parametrize("name", ["c.npz", "c.npy"])
@pytest.mark.parametrize(
    "content", [b"", b"not an array", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00"]
)
def test_damaged_files_are_data_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} cannot be read as"):
        open_data(tmp_path / name, [IMAGE])


def test_truncated_files_are_data_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "c.npy", images(5))
    whole = (tmp_path / "c.npy").read_bytes()
    (tmp_path / "c.npy").write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"cannot be read as a \.npy"):
        open_data(tmp_path / "c.npy", [IMAGE])
    np.savez(tmp_path / "c.npz", x=images(5))
    raw = bytearray((tmp_path / "c.npz").read_bytes())
    raw[400] ^= 0xFF  # inside the numbers: the checksum of the member no longer fits
    (tmp_path / "c.npz").write_bytes(bytes(raw))
    for keep in (64 * 2**20, 10):
        monkeypatch.setattr(arrays_source, "KEEP_BYTES", keep)
        with pytest.raises(DataError, match=r"c.npz"):
            list(open_data(tmp_path / "c.npz", [IMAGE]))


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "c.npz", x=np.array([{}], dtype=object))
    for name in ("c.npy", "c.npz"):
        with pytest.raises(DataError, match="Python objects"):
            open_data(tmp_path / name, [IMAGE])


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ConfigValueError, match="batch_size is 0"):
        open_data({"x": images(2)}, [IMAGE], batch_size=0)
    with pytest.raises(ConfigValueError, match="batch_num is -1"):
        open_data({"x": images(2)}, [IMAGE], batch_num=-1)


def test_a_file_that_does_not_exist_offers_a_near_one(tmp_path: Path) -> None:
    np.save(tmp_path / "calib.npy", images(2))
    with pytest.raises(DataError, match=r"Did you mean 'calib\.npy'"):
        open_data(tmp_path / "calibb.npy", [IMAGE])
