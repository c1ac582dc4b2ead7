"""Samples that lie elsewhere than on axis 0: feeds of any shape, and numbers that all samples share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.data.batch import Batch
from calibrant.data.open import InputInfo, open_data
from calibrant.data.sources.random import random_arrays
from calibrant.errors import CalibrantError, DataError

Array = np.ndarray[Any, Any]
F32, I64 = np.dtype(np.float32), np.dtype(np.int64)

SOUND = InputInfo("sound", ("time", 6), F32)
STATE = InputInfo("state", (1, 1, 4), F32)
LAYERS = InputInfo("layers", (2, "n", 4), F32)
RATE = InputInfo("rate", (), I64)
FLAG = InputInfo("flag", (), np.dtype(np.bool_))
GAIN = InputInfo("gain", (), F32)
X = InputInfo("x", ("n", 3), F32)


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def sounds(count: int = 5) -> list[dict[str, Array]]:
    """Feeds of different lengths."""
    return [{"sound": normal(7 + i, 6), "state": normal(1, 1, 4)} for i in range(count)]


def save_archives(folder: Path, feeds: list[dict[str, Array]]) -> Path:
    for i, feed in enumerate(feeds):
        np.savez(folder / f"{i}.npz", **feed)  # type: ignore[arg-type]
    return folder


def save_by_input(folder: Path, feeds: list[dict[str, Array]]) -> Path:
    for name in feeds[0]:
        (folder / name).mkdir()
        for i, feed in enumerate(feeds):
            np.save(folder / name / f"{i}.npy", feed[name])
    return folder


def save_flat(folder: Path, feeds: list[dict[str, Array]]) -> Path:
    for name in feeds[0]:
        for i, feed in enumerate(feeds):
            np.save(folder / f"b{i}_{name}.npy", feed[name])
    return folder


FORMS: dict[str, Callable[[Path, list[dict[str, Array]]], Any]] = {
    "a list of dicts": lambda _, feeds: feeds,
    "a generator": lambda _, feeds: (f for f in feeds),
    "a function": lambda _, feeds: lambda: iter(feeds),
    "tuples": lambda _, feeds: [tuple(f.values()) for f in feeds],
    "an array of feeds in each item": lambda _, feeds: [
        {n: x[None] for n, x in f.items()} for f in feeds
    ],
    "lists by input": lambda _, feeds: {n: [f[n] for f in feeds] for n in feeds[0]},
    "one .npz a feed": save_archives,
    "a folder an input": save_by_input,
    "a flat folder": save_flat,
}


def assert_feeds(batches: list[Batch], feeds: list[dict[str, Array]]) -> None:
    assert len(batches) == len(feeds)
    for i, (batch, feed) in enumerate(zip(batches, feeds, strict=True)):
        assert (batch.first, batch.size, batch.whole) == (i, 1, True)
        for name, x in feed.items():
            np.testing.assert_array_equal(batch.feeds[name], x)
            assert batch.feeds[name].shape == x.shape


# ------------------------------------------------------------------------------------------------ feeds


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_feed_is_a_sample_where_inputs_share_no_axis(tmp_path: Path, form: Any) -> None:
    feeds = sounds()
    batches = open_data(form(tmp_path, feeds), [SOUND, STATE])
    assert_feeds(list(batches), feeds)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_inputs_on_different_axes_are_fed_one_by_one(tmp_path: Path, form: Any) -> None:
    feeds = [{"x": normal(1, 3), "layers": normal(2, 1, 4), "rate": np.array(k)} for k in (8, 16)]
    batches = open_data(form(tmp_path, feeds), [X, LAYERS, RATE])
    assert_feeds(list(batches), feeds)


@pytest.mark.parametrize("kind", ["npz", "dict"])
def test_arrays_may_have_an_axis_of_feeds(tmp_path: Path, kind: str) -> None:
    arrays = {"sound": normal(5, 9, 6), "state": normal(5, 1, 1, 4)}
    np.savez(tmp_path / "c.npz", **arrays, labels=np.arange(5))  # type: ignore[arg-type]
    data = tmp_path / "c.npz" if kind == "npz" else {**arrays, "labels": np.arange(5)}
    batches = open_data(data, [SOUND, STATE])
    assert (batches.samples, batches.batches, batches.batch_size) == (5, 5, 1)
    assert_feeds(list(batches), [{n: x[i] for n, x in arrays.items()} for i in range(5)])
    assert [b.extras["labels"].tolist() for b in batches] == [[k] for k in range(5)]


def test_what_is_given_once_holds_for_every_feed(tmp_path: Path) -> None:
    """An .npz file where only some arrays have an axis of feeds."""
    sound, state = normal(5, 9, 6), normal(1, 1, 4)
    np.savez(tmp_path / "c.npz", sound=sound, state=state)
    wanted = [{"sound": s, "state": state} for s in sound]
    assert_feeds(list(open_data(tmp_path / "c.npz", [SOUND, STATE])), wanted)
    assert_feeds(list(open_data([{"sound": sound, "state": state}], [SOUND, STATE])), wanted)


def test_one_feed_may_be_all_the_data() -> None:
    feed = sounds(1)[0]
    assert_feeds(list(open_data(feed, [SOUND, STATE])), [feed])


def test_samples_on_axis_0_stay_samples_on_axis_0() -> None:
    """A model with a free and a fixed first dimension that is fed with as many rows of each."""
    data = {"sound": normal(8, 6), "state": normal(8, 1, 4)}
    for given_as in (data, [data]):
        batches = list(open_data(given_as, [SOUND, STATE]))
        assert [(b.size, b.whole) for b in batches] == [(1, False)] * 8
        assert batches[3].feeds["sound"].shape == (1, 6)


def test_free_dimensions_are_what_the_data_shows() -> None:
    """[-1, 6] beside [-1, -1, 4]: rows where there are as many of each, feeds where there are not."""
    inputs = [InputInfo("sound", (None, 6), F32), InputInfo("state", (None, None, 4), F32)]
    rows = list(open_data([{"sound": normal(8, 6), "state": normal(8, 2, 4)}], inputs))
    assert [(b.size, b.whole) for b in rows] == [(8, False)]
    feeds = [{"sound": normal(8 + k, 6), "state": normal(2, 1, 4)} for k in range(3)]
    assert_feeds(list(open_data(feeds, inputs)), feeds)


def test_a_batch_of_one_may_be_in_the_feeds() -> None:
    """[1, time, 6] and [1, 1, 4]: rows, or feeds as the model takes them."""
    inputs = [InputInfo("sound", (1, "time", 6), F32), STATE]
    rows = {"sound": normal(5, 9, 6), "state": normal(5, 1, 4)}
    wanted = [{n: x[i : i + 1] for n, x in rows.items()} for i in range(5)]
    feeds = {n: x[:, None] for n, x in rows.items()}
    for data in (rows, [rows], feeds, [feeds], wanted):
        seen = list(open_data(data, inputs))
        assert len(seen) == 5
        for batch, feed in zip(seen, wanted, strict=True):
            for name, x in feed.items():
                np.testing.assert_array_equal(batch.feeds[name], x)
    with pytest.raises(DataError) as wrong:
        open_data({"sound": normal(5, 9, 7), "state": normal(5, 1, 4)}, inputs)
    assert str(wrong.value).endswith("expects shape (1, time, 6), got (5, 9, 7).")


def test_references_of_a_feed_come_as_they_are() -> None:
    feeds = [f | {"labels": np.arange(len(f["sound"]))} for f in sounds(3)]
    seen = [b.extras["labels"].tolist() for b in open_data(feeds, [SOUND, STATE])]
    assert seen == [list(range(7 + k)) for k in range(3)]


def test_a_batch_size_is_not_for_feeds() -> None:
    batches = open_data(
        {"x": normal(4, 1, 3), "layers": normal(4, 2, 1, 4)}, [X, LAYERS], batch_size=8
    )
    assert batches.batch_size == 1
    assert "each feed is run by itself" in batches.notes[0]
    assert [b.size for b in open_data(sounds(3), [SOUND, STATE], batch_size=2)] == [1, 1, 1]
    assert len(list(open_data(sounds(5), [SOUND, STATE], batch_num=2))) == 2


def test_a_feed_is_preprocessed_by_itself(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("inputs: {sound: {scale: 1/2, mean: 1}}")
    feeds = sounds(3)
    for data in (feeds, save_archives(tmp_path, feeds)):
        seen = list(open_data(data, [SOUND, STATE], preprocess=tmp_path / "p.yaml"))
        np.testing.assert_allclose(seen[2].feeds["sound"], feeds[2]["sound"] / 2 - 1, rtol=1e-6)
        np.testing.assert_array_equal(seen[2].feeds["state"], feeds[2]["state"])


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "rate",
    [16, np.array(16), np.array([16]), np.full(6, 16), np.full((1, 1), 16), np.int32(16)],
    ids=lambda r: f"{type(r).__name__} {np.shape(r)}",
)
def test_a_number_is_the_same_for_every_sample(tmp_path: Path, rate: Any) -> None:
    x = normal(6, 3)
    np.savez(tmp_path / "c.npz", x=x, rate=rate)
    for data in ({"x": x, "rate": rate}, tmp_path / "c.npz", [{"x": x, "rate": rate}]):
        (batch,) = open_data(data, [X, RATE], batch_size=6)
        assert batch.shared == {"rate"}
        assert isinstance(batch.feeds["rate"], np.ndarray)
        assert (batch.feeds["rate"].shape, batch.feeds["rate"].dtype) == ((), I64)
        assert batch.feeds["rate"] == 16
        np.testing.assert_array_equal(batch.feeds["x"], x)
        part = batch.part(2, 5)
        assert part.feeds["rate"] is batch.feeds["rate"]
        np.testing.assert_array_equal(part.feeds["x"], x[2:5])


def test_numbers_of_every_kind_and_several_of_them() -> None:
    data = {"x": normal(4, 3), "rate": 16, "flag": True, "gain": 2}
    (batch,) = open_data(data, [X, RATE, FLAG, GAIN], batch_size=4)
    found = {n: (batch.feeds[n].dtype, batch.feeds[n].item()) for n in ("rate", "flag", "gain")}
    assert found == {"rate": (I64, 16), "flag": (np.bool_, True), "gain": (F32, 2.0)}


def test_a_model_may_take_numbers_alone() -> None:
    batches = open_data({"rate": np.array([8, 16, 16]), "gain": 0.5}, [RATE, GAIN])
    assert [b.feeds["rate"].item() for b in batches] == [8, 16, 16]
    assert [b.feeds["gain"].item() for b in batches] == [0.5] * 3
    assert len(list(open_data({"rate": 8, "gain": 0.5}, [RATE, GAIN]))) == 1


def test_numbers_that_differ_are_run_one_by_one(tmp_path: Path) -> None:
    x, rate = normal(4, 3), np.array([8, 8, 16, 16])
    feeds = [{"x": a, "rate": r} for a, r in zip(x, rate, strict=True)]
    (tmp_path / "npz").mkdir()
    (tmp_path / "npy").mkdir()
    for data in (
        {"x": x, "rate": rate},
        save_archives(tmp_path / "npz", feeds),
        save_by_input(tmp_path / "npy", feeds),
    ):
        batches = open_data(data, [X, RATE])
        assert [b.feeds["rate"].item() for b in batches] == [8, 8, 16, 16]
    assert [b.size for b in open_data(feeds, [X, RATE], batch_size=4)] == [2, 2]
    with pytest.raises(
        DataError, match=r"one number for all samples of a batch; sample 0 .* 8 and sample 2 .* 16"
    ):
        list(open_data({"x": x, "rate": rate}, [X, RATE], batch_size=4))


def test_common_steps_of_preprocessing_leave_numbers_alone(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("scale: 1/255\ninputs: {gain: {scale: 10}}")
    data = {"x": np.full((2, 3), 255, np.uint8), "rate": 16, "gain": np.float32(0.5)}
    (batch,) = open_data(data, [X, RATE, GAIN], batch_size=2, preprocess=tmp_path / "p.yaml")
    np.testing.assert_allclose(batch.feeds["x"], 1)
    assert (batch.feeds["rate"].item(), batch.feeds["gain"].item()) == (16, 5.0)


def test_where_the_rank_is_unknown_the_data_says_what_is_a_number() -> None:
    unknown = InputInfo("u", None, F32)
    (batch,) = open_data({"x": normal(4, 3), "u": np.float32(2)}, [X, unknown], batch_size=4)
    assert batch.shared == {"u"}
    assert batch.feeds["u"].shape == ()
    (batch,) = open_data({"x": normal(4, 3), "u": normal(4, 7)}, [X, unknown], batch_size=4)
    assert (batch.shared, batch.feeds["u"].shape) == (frozenset(), (4, 7))


# --------------------------------------------------------------------------------------------- messages


HINT = r"a folder with one \.npz file a feed, a list of dicts, or a \.npz file whose arrays have an axis"


@pytest.mark.parametrize(
    ("data", "inputs", "texts"),
    [
        (
            {"sound": normal(5, 9, 7), "state": normal(5, 1, 1, 4)},
            [SOUND, STATE],
            [r"expects shape \(time, 6\), got \(5, 9, 7\)", HINT],
        ),
        (
            {"sound": normal(5, 9, 6), "state": normal(4, 1, 1, 4)},
            [SOUND, STATE],
            [HINT],
        ),
        (
            [{"sound": normal(9, 7), "state": normal(1, 1, 4)}],
            [SOUND, STATE],
            [r"feed 0 of the data: input 'sound' expects shape \(time, 6\), got \(9, 7\)"],
        ),
        (
            [{"x": normal(1, 3), "layers": normal(3, 1, 4)}],
            [X, LAYERS],
            [r"'layers' expects shape \(2, n, 4\), got \(3, 1, 4\)"],
        ),
        (
            {"x": normal(5, 1, 3), "layers": normal(5, 3, 1, 4)},
            [X, LAYERS],
            [r"'layers' expects shape \(feeds, 2, n, 4\), got \(5, 3, 1, 4\)", HINT],
        ),
        (
            {"x": normal(5, 1, 3), "layers": normal(4, 2, 1, 4)},
            [X, LAYERS],
            ["different sample counts: 'x' 5, 'layers' 4", HINT],
        ),
        (
            {"x": normal(5, 3), "rate": np.ones((5, 2), int)},
            [X, RATE],
            ["one number.*got shape .5, 2."],
        ),
        ({"x": normal(5, 3), "rate": np.ones(4, int)}, [X, RATE], ["'x' 5, 'rate' 4"]),
        ({"x": normal(5, 3), "rate": 0.5}, [X, RATE], ["expects int64, got float64"]),
        ({"x": normal(5, 3), "gain": np.nan}, [X, GAIN], ["input 'gain' holds NaN"]),
        (
            {"x": normal(5, 3), "y": normal(4, 3)},
            [X, InputInfo("y", ("m", 3), F32)],
            ["different sample counts: 'x' 5, 'y' 4", HINT],
        ),
    ],
)
def test_what_does_not_fit_is_explained(
    data: Any, inputs: list[InputInfo], texts: list[str]
) -> None:
    for text in texts:
        with pytest.raises(DataError, match=text):
            list(open_data(data, inputs))


def test_a_message_shows_the_shape_that_the_file_has(tmp_path: Path) -> None:
    feeds = sounds(3)
    feeds[1]["sound"] = normal(9, 7)
    for save in (save_archives, save_by_input, save_flat):
        folder = tmp_path / save.__name__
        folder.mkdir()
        save(folder, feeds)
        with pytest.raises(DataError, match=r"1.*expects shape \(time, 6\), got \(9, 7\)"):
            list(open_data(folder, [SOUND, STATE]))
    image = InputInfo("x", ("N", 3, 4, 5), F32)
    (tmp_path / "one").mkdir()
    np.save(tmp_path / "one" / "0.npy", normal(2, 4, 5))
    with pytest.raises(
        DataError, match=r"0.npy: .* expects shape \(N, 3, 4, 5\), got \(2, 4, 5\)"
    ):
        open_data(tmp_path / "one", [image])
    (tmp_path / "p.yaml").write_text("scale: 2")
    with pytest.raises(DataError, match=r"got \(1, 2, 4, 5\) after preprocessing"):
        open_data(tmp_path / "one", [image], preprocess=tmp_path / "p.yaml")


# ------------------------------------------------------------------------------------------- properties


@given(
    st.lists(
        st.lists(st.sampled_from(["n", "m", None, 1, 2, 4]), min_size=0, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_random_values_fit_every_model(shapes: list[list[Any]]) -> None:
    inputs = [InputInfo(f"i{k}", tuple(s), F32) for k, s in enumerate(shapes)]
    for batch in open_data(random_arrays(inputs), inputs):
        for info in inputs:
            shape = batch.feeds[info.name].shape
            assert len(shape) == len(info.dims)
            assert all(
                not isinstance(d, int) or d == n for d, n in zip(info.dims, shape, strict=True)
            )


@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    first=st.sampled_from(["time", None]),
    form=st.sampled_from(["a list of dicts", "tuples", "lists by input"]),
)
def test_feeds_arrive_as_they_are_whatever_their_lengths(
    lengths: list[int], first: str | None, form: str
) -> None:
    inputs = [InputInfo("sound", (first, 6), F32), STATE]
    feeds = [{"sound": normal(k, 6), "state": normal(1, 1, 4)} for k in lengths]
    seen = list(open_data(FORMS[form](Path(), feeds), inputs))
    assert len(seen) == len(feeds)
    for batch, feed in zip(seen, feeds, strict=True):
        for name, x in feed.items():
            np.testing.assert_array_equal(batch.feeds[name], x)


def test_no_data_is_an_error_of_ours() -> None:
    wrong: list[Any] = [{}, [], {"sound": normal(0, 6), "state": normal(0, 1, 4)}, [{}]]
    for data in wrong:
        with pytest.raises(CalibrantError):
            list(open_data(data, [SOUND, STATE]))
