"""Observation sees what the model computes, once, however the data is cut and the memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from calibrant.data.batch import Batch
from calibrant.errors import DataError
from calibrant.runtime import tap
from calibrant.runtime.observe import Ends, Observer, channel_magnitudes, channel_tops, observe
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.tap import Tap, expose
from calibrant.stats import TensorStats
from tests.models import NETS, Array, Feeds, Weights, build, normal
from tests.models.convolution import IMAGE
from tests.road import outputs, prepared

W = Weights(0)
TENSORS = ("x", "relu0", "conv1", "relu1", "conv2", "relu2", "conv4", "y")


def batch(feed: dict[str, Array], first: int = 0, *, files: Sequence[str] = ()) -> Batch:
    size = len(next(iter(feed.values())))
    return Batch(feed, {}, first, size, "calib.npz", tuple(files))


def cut(feed: dict[str, Array], sizes: Sequence[int]) -> list[Batch]:
    """Cut one feed into batches."""
    ends = np.cumsum(sizes)
    assert ends[-1] == len(next(iter(feed.values())))
    return [
        batch({n: x[end - size : end] for n, x in feed.items()}, int(end - size))
        for size, end in zip(sizes, ends, strict=True)
    ]


def equal(a: TensorStats, b: TensorStats) -> bool:
    (xa, ca), (xb, cb) = a.points(), b.points()
    same = (a.count, a.min, a.max) == (b.count, b.min, b.max)
    return same and np.array_equal(xa, xb) and np.array_equal(ca, cb)


def values(name: str, tensors: Sequence[str], feed: dict[str, Array]) -> dict[str, Array]:
    """Run the model plainly and return tensors of it."""
    model = prepared(NETS[name]())
    inner = [t for t in tensors if t not in feed]
    found = dict(zip(inner, outputs(expose(model, inner), feed), strict=True)) if inner else {}
    return {t: feed[t] if t in feed else found[t] for t in tensors}


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("residual", TENSORS),
        ("attention_add", ("h", "q", "k", "v", "weight", "norm", "gelu", "y")),
        ("two_in_two_out", ("a", "b", "hidden", "left", "score")),
        ("if_subgraph", ("x", "conv1", "relu1", "y")),
        ("gemm_scaled", ("x", "y")),
    ],
)
def test_statistics_are_those_of_the_tensors(name: str, tensors: Sequence[str]) -> None:
    model, feeds = NETS[name]()
    feed = feeds(batch=6)
    seen = observe(prepared(model), tensors, [Batch(feed, {}, 0, 6, "calib.npz")])
    for tensor, x in values(name, tensors, feed).items():
        assert seen[tensor].count == x.size
        assert np.float32(seen[tensor].min) == x.min()
        assert np.float32(seen[tensor].max) == x.max()
        assert equal(seen[tensor], TensorStats.of(x))


@pytest.mark.parametrize("sizes", [(24,), (1,) * 24, (7, 1, 16), (8, 8, 8), (23, 1)])
def test_batch_size_and_order_do_not_matter(sizes: tuple[int, ...]) -> None:
    model, feeds = NETS["residual"]()
    feed = feeds(batch=24)
    reference = observe(prepared(model), TENSORS, [batch(feed)])
    cuts = cut(feed, sizes)
    for order in (cuts, cuts[::-1]):
        seen = observe(prepared(model), TENSORS, order)
        assert all(equal(seen[t], reference[t]) for t in TENSORS)


@pytest.mark.parametrize("samples_in_a_page", [0.4, 1, 2.5, 7])
def test_small_pages_change_nothing(
    monkeypatch: pytest.MonkeyPatch, samples_in_a_page: float
) -> None:
    """Where a page does not hold one sample, other tensors are exposed, and rounding may differ."""
    model, feeds = NETS["residual"]()
    feed = feeds(batch=10)
    reference = observe(prepared(model), TENSORS, [batch(feed)])
    sample = 4 * 7 * 8 * 16 * 16
    for name in ("BUFFER_BYTES", "GROUP_BYTES"):
        monkeypatch.setattr(tap, name, int(sample * samples_in_a_page))
    seen = observe(prepared(model), TENSORS, cut(feed, (6, 4)))
    for t in TENSORS:
        assert seen[t].count == reference[t].count
        assert seen[t].min == pytest.approx(reference[t].min, rel=1e-5)
        assert seen[t].max == pytest.approx(reference[t].max, rel=1e-5)
        assert samples_in_a_page < 1 or equal(seen[t], reference[t])


class Runs:
    """Counts what a tap hands out."""

    def __init__(self) -> None:
        self.parts: list[tuple[tuple[str, ...], int, int]] = []
        self.largest = 0

    def use(self, arrays: dict[str, Array], batch: Batch, first: int, size: int) -> Runs:
        self.parts.append((tuple(arrays), first, size))
        self.largest = max(self.largest, sum(x.nbytes for x in arrays.values()))
        return self

    def result(self) -> None:
        """Nothing to wait for."""


def tapped(name: str, tensors: Sequence[str], *feeds: dict[str, Array]) -> Runs:
    runs = Runs()
    found = Tap(prepared(NETS[name]()), tensors, runtime=Runtime("cpu", 1))
    for feed in feeds:
        found.run(batch(feed), runs.use)  # type: ignore[arg-type]
    found.close()
    return runs


def test_a_batch_that_does_not_fit_is_run_in_equal_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    _, feeds = NETS["residual"]()
    sample = 4 * 2 * 8 * 16 * 16
    monkeypatch.setattr(tap, "BUFFER_BYTES", 3 * sample)
    runs = tapped("residual", ("relu0", "relu1"), feeds(batch=8))
    assert [(first, size) for _, first, size in runs.parts] == [(0, 3), (3, 3), (6, 2)]
    assert runs.largest <= 3 * sample


def test_a_sample_that_does_not_fit_is_run_in_groups_of_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, feeds = NETS["residual"]()
    one = 4 * 8 * 16 * 16
    monkeypatch.setattr(tap, "BUFFER_BYTES", one)
    monkeypatch.setattr(tap, "GROUP_BYTES", 2 * one)
    runs = tapped("residual", ("relu0", "relu1", "relu2", "relu3", "y"), feeds(batch=2))
    groups = [("relu0", "relu1"), ("relu2", "relu3"), ("y",)]
    assert [(names, first) for names, first, _ in runs.parts] == [
        (g, first) for first in (0, 1) for g in groups
    ]
    assert runs.largest == 2 * one


def test_shapes_that_the_data_decides() -> None:
    model, feeds = build(
        """net (float[N,24] x) => (float[N,8] y, float[M,8] k) {
            y = MatMul (x, w)
            r = Relu (y)
            n = NonZero (r)
            t = Transpose <perm = [1,0]> (n)
            i = Gather <axis = 1> (t, zero)
            k = Gather <axis = 0> (r, i)
        }""",
        {"w": W.dense(24, 8), "zero": np.array(0)},
        normal(24),
    )
    feed = feeds(batch=12)
    parts = cut(feed, (1, 1, 4, 4, 2))
    seen = observe(prepared(model), ["y", "k"], parts)
    every = [outputs(model, dict(p.feeds)) for p in parts]
    assert len({k.shape for _, k in every}) > 2
    assert equal(seen["k"], TensorStats.of(np.concatenate([k.ravel() for _, k in every])))
    assert equal(seen["y"], TensorStats.of(np.concatenate([y for y, _ in every])))


def test_a_model_that_takes_batches_of_one_size_alone() -> None:
    """The input says any batch, and a Reshape inside insists on 4."""
    model, feeds = build(
        """net (float[N,24] x) => (float[M,8] y) {
            r = Reshape (x, shape) y = MatMul (r, w)
        }""",
        {"shape": np.array([4, 24]), "w": W.dense(24, 8)},
        normal(24),
    )
    parts = [batch(feeds(batch=4, seed=s)) for s in range(3)]
    seen = observe(prepared(model), ["y"], parts)
    assert seen["y"].count == 3 * 4 * 8


def test_magnitudes_of_channels() -> None:
    model, feeds = NETS["residual"]()
    parts = [feeds(batch=3, seed=s) for s in range(3)]
    found = channel_magnitudes(
        prepared(model), {"x": 1, "conv1": 1, "relu0": -1}, map(batch, parts)
    )
    x = np.concatenate([values("residual", ["conv1"], f)["conv1"] for f in parts])
    r = np.concatenate([values("residual", ["relu0"], f)["relu0"] for f in parts])
    np.testing.assert_allclose(found["conv1"], np.abs(x).max(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["relu0"], np.abs(r).max(axis=(0, 1, 2)), rtol=1e-5)
    assert found["x"].shape == (3,)


def test_exact_mode_keeps_the_values() -> None:
    model, feeds = NETS["two_in_two_out"]()
    feed = feeds(batch=8)
    seen = observe(prepared(model), ["hidden"], cut(feed, (3, 5)), exact=True)
    x = values("two_in_two_out", ["hidden"], feed)["hidden"]
    np.testing.assert_array_equal(seen["hidden"].values, np.unique(x))


def test_no_data_is_an_error() -> None:
    model = prepared(NETS["residual"]())
    with pytest.raises(DataError, match="calibration data is empty"):
        observe(model, TENSORS, [])


def spoiled(feeds: Feeds, row: int, value: float) -> dict[str, Array]:
    feed = feeds(batch=6)
    feed["x"][row, 1, 2, 3] = value
    return feed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pages", [1, 1000])
def test_a_value_that_is_no_number_names_tensor_sample_and_source(
    monkeypatch: pytest.MonkeyPatch, value: float, pages: int
) -> None:
    monkeypatch.setattr(tap, "BUFFER_BYTES", 4 * 8 * 16 * 16 * pages)
    model, feeds = NETS["residual"]()
    parts = [batch(feeds(batch=6)), batch(spoiled(feeds, 4, value), 6)]
    with pytest.raises(DataError, match=r"'x' holds -?(nan|inf) for sample 10 of calib\.npz"):
        observe(prepared(model), ["x"], parts)
    with pytest.raises(DataError, match=r"'conv0' holds -?(nan|inf) for sample 10 of calib\.npz"):
        observe(prepared(model), ["conv0"], parts)


def test_the_file_of_the_sample_is_named() -> None:
    model, feeds = NETS["residual"]()
    spoiled_batch = batch(spoiled(feeds, 2, np.nan), files=[f"img{i}.npy" for i in range(6)])
    with pytest.raises(DataError, match=r"'conv0' holds nan for img2\.npy,"):
        observe(prepared(model), ["conv0"], [spoiled_batch])


def test_a_tensor_that_overflows_inside_the_model_is_named() -> None:
    model, feeds = build(
        "net (float[N,4] x) => (float[N,4] y) { a = Exp (x) y = Relu (a) }", {}, normal(4)
    )
    feed = feeds(batch=5)
    feed["x"][3, 0] = 200
    with pytest.raises(DataError, match=r"'a' holds inf for sample 3 of calib\.npz"):
        observe(prepared(model), ["a"], [batch(feed)])


def test_the_sample_is_right_where_rows_are_more_than_samples() -> None:
    model, feeds = build(
        """net (float[N,6,4] x) => (float[M,4] y) { r = Reshape (x, shape) y = Exp (r) }""",
        {"shape": np.array([-1, 4])},
        normal(6, 4),
    )
    feed = feeds(batch=5)
    feed["x"][3, 5, 0] = 200
    with pytest.raises(DataError, match=r"sample 3 of calib\.npz"):
        observe(prepared(model), ["y"], [batch(feed)])


def test_progress_counts_samples() -> None:
    model, feeds = NETS["residual"]()
    seen: list[int] = []
    observe(prepared(model), ["conv1"], cut(feeds(batch=7), (4, 3)), progress=seen.append)
    assert seen == [4, 3]


def test_batches_are_taken_one_by_one() -> None:
    """A stream is not read ahead by more than a batch, so memory does not grow with it."""
    model, feeds = NETS["residual"]()
    alive: list[int] = []

    def stream() -> Iterator[Batch]:
        for i in range(30):
            alive.append(i)
            yield batch(feeds(batch=2, seed=i), 2 * i)

    done: list[int] = []
    observe(
        prepared(model),
        TENSORS,
        stream(),
        progress=lambda _: done.append(len(alive)),
    )
    assert done == list(range(1, 31))


def test_the_model_is_not_changed() -> None:
    model = prepared(
        build(
            "net (float[N,3,16,16] x) => (float[N,3,16,16] y) { a = Relu (x) y = Abs (a) }",
            {},
            IMAGE,
        )
    )
    observe(model, ["a"], [batch(IMAGE())])
    assert [v.name for v in model.graph.outputs] == ["y"]


@pytest.mark.parametrize("sizes", [(24,), (7, 1, 16)])
def test_channels_heard_while_values_are_counted_are_those_that_were_asked_for(
    sizes: tuple[int, ...],
) -> None:
    model, feeds = NETS["residual"]()
    made, feed = prepared(model), feeds(batch=24)
    axes = {"relu0": 1, "conv1": 1, "y": -1, "conv4": 1}
    heard = Ends([*axes.items()])
    cuts = cut(feed, sizes)
    counted = Observer(made, TENSORS, runtime=Runtime()).see(cuts, listeners=[heard])
    alone = observe(made, TENSORS, cuts)
    assert all(equal(counted[t], alone[t]) for t in TENSORS)
    sizes_of = channel_magnitudes(made, axes, cuts)
    tops = channel_tops(made, axes, cuts)
    for tensor, axis in axes.items():
        assert heard.holds(tensor, axis)
        np.testing.assert_allclose(heard.magnitudes(tensor, axis), sizes_of[tensor], rtol=1e-5)
        np.testing.assert_allclose(heard.tops(tensor, axis), tops[tensor], rtol=1e-5)
    assert not heard.holds("conv2", 1)  # counted, and not asked for
