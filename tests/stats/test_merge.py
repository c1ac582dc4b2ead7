"""Statistics are a commutative monoid, and equal what numpy says of all the values."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.errors import DataError
from calibrant.stats import Accumulator, ExactValues, Histogram, TensorStats
from tests import strategies

MODES = ("exact", "few", "histogram")


def make(x, mode):
    """Statistics in one of the three representations; `histogram` has no exception for few values."""
    with mock.patch("calibrant.stats.tensor.FEW", 0 if mode == "histogram" else 1 << 15):
        if mode == "exact":
            return TensorStats.exact(x)
        return TensorStats.of(x)


@pytest.mark.parametrize("mode", MODES)
@given(strategies.arrays(min_size=0), strategies.arrays(min_size=0), strategies.arrays(min_size=0))
def test_merge_is_associative_and_commutative_with_an_identity(mode, x, y, z):
    a, b, c = (make(v, mode) for v in (x, y, z))
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    empty = make(np.empty(0, dtype=np.float32), mode)
    assert a.merge(empty) == a == empty.merge(a)


@pytest.mark.parametrize("mode", MODES)
@given(strategies.arrays(min_size=1), st.data())
def test_result_does_not_depend_on_batches(mode, x, data):
    whole = make(x, mode)
    parts = strategies.batches(data, x)
    merged = make(parts[0], mode)
    for part in parts[1:]:
        merged = merged.merge(make(part, mode))
    with mock.patch("calibrant.stats.tensor.FEW", 0 if mode == "histogram" else 1 << 15):
        seen = Accumulator(exact=mode == "exact")
        for part in parts:
            assert seen.add(part) is None
    assert merged == whole
    assert seen.result() == whole


@given(strategies.arrays(max_size=40), st.integers(1, 30), st.data())
def test_the_switch_from_few_values_to_bins_leaves_no_trace(x, few, data):
    with mock.patch("calibrant.stats.tensor.FEW", few):
        whole = TensorStats.of(x)
        parts = [TensorStats.of(part) for part in strategies.batches(data, x)]
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.merge(part)
    assert isinstance(whole.data, ExactValues if np.unique(x).size <= few else Histogram)
    assert merged == whole


@pytest.mark.parametrize("mode", MODES)
@given(strategies.arrays())
def test_extremes_and_counts_are_exact(mode, x):
    stats = make(x, mode)
    assert (stats.min, stats.max) == (x.min(), x.max())
    assert stats.count == x.size
    points, counts = stats.points()
    lower, upper = stats.edges()
    assert counts.sum() == x.size
    assert (np.diff(points) > 0).all()
    assert (lower[1:] >= upper[:-1]).all()
    assert ((lower <= points) & (points <= upper)).all()


@given(strategies.tame_arrays())
def test_each_value_lies_in_its_bin_and_bins_are_narrow(x):
    stats = make(x, "histogram")
    lower, upper = stats.edges()
    value, count = np.unique(x.astype(np.float64), return_counts=True)
    place = np.searchsorted(upper, value)
    assert (lower[place] <= value).all()
    assert (value <= upper[place]).all()
    assert (upper - lower <= np.maximum(np.abs(lower), np.abs(upper)) / 2048).all()
    assert stats.count == count.sum()


@pytest.mark.parametrize("mode", MODES)
@given(strategies.tame_arrays(), st.integers(-20, 20))
def test_scaling_by_a_power_of_two_scales_the_points(mode, x, exponent):
    a, b = make(x, mode), make(np.ldexp(x, exponent), mode)
    np.testing.assert_array_equal(np.ldexp(a.points()[0], exponent), b.points()[0])
    np.testing.assert_array_equal(a.points()[1], b.points()[1])


@pytest.mark.parametrize("mode", MODES)
def test_values_that_are_not_finite_are_counted_and_found(mode):
    x = np.linspace(-1, 1, 10_000, dtype=np.float32)
    x[[4100, 9000, 17]] = np.nan, np.inf, -np.inf
    with mock.patch("calibrant.stats.tensor.FEW", 100 if mode == "histogram" else 1 << 15):
        seen = Accumulator(exact=mode == "exact")
        assert seen.add(x[:10]) is None
        assert seen.add(x[10:].reshape(2, -1)) == 7
        assert seen.add(x[50:4000]) is None
        assert seen.add(x[4000:]) == 100
        stats = seen.result()
    assert stats.nonfinite == 5
    finite = np.concatenate([x, x[50:]])
    assert stats.count == np.isfinite(finite).sum()
    assert (stats.min, stats.max) == (-1, 1)


@pytest.mark.parametrize("mode", MODES)
def test_only_values_that_are_not_finite(mode):
    stats = make(np.array([np.nan, np.inf], dtype=np.float32), mode)
    assert (stats.count, stats.nonfinite) == (0, 2)
    assert (stats.min, stats.max) == (math.inf, -math.inf)


@pytest.mark.parametrize("mode", MODES)
def test_negative_zero_and_subnormals_count_as_zero_in_a_histogram(mode):
    x = np.array([-0.0, 0.0, 1e-45, -1e-45, 1.0, -1.0], dtype=np.float32)
    points, counts = make(x, mode).points()
    if mode == "histogram":
        assert points.tolist() == [-1.0, 0.0, 1.0]
        assert counts.tolist() == [1, 4, 1]
    else:
        assert counts.tolist() == [1, 1, 2, 1, 1]
    assert not np.signbit(points[points == 0]).any()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floating_types_are_cast(dtype):
    x = np.array([[0.5, -2.0], [3.0, 0.25]]).astype(dtype)
    assert TensorStats.of(x.T) == TensorStats.of(x.astype(np.float32))


def test_float64_beyond_float32_is_not_finite():
    assert TensorStats.of(np.array([1.0, 1e300])).nonfinite == 1


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64, np.longdouble])
def test_other_types_are_refused(dtype):
    with pytest.raises(DataError, match=np.dtype(dtype).name):
        TensorStats.of(np.ones(3, dtype=dtype))


def test_scalars_and_strided_arrays():
    assert TensorStats.of(np.float32(2.5)).points()[0].tolist() == [2.5]
    x = np.arange(20, dtype=np.float32)
    assert TensorStats.of(x[::2]) == TensorStats.of(x[::2].copy())


def test_exact_keeps_every_value():
    x = np.arange(100_000, dtype=np.float32)[::-1]
    stats = TensorStats.exact(x)
    assert stats.is_exact
    np.testing.assert_array_equal(stats.points()[0], x[::-1])
    assert not TensorStats.of(x).is_exact


def test_the_caller_may_reuse_its_buffer():
    buffer = np.ones(5, dtype=np.float32)
    for exact in (True, False):
        seen = Accumulator(exact=exact)
        seen.add(buffer)
        buffer[:] = 7
        assert seen.result().max == 1
        buffer[:] = 1


def test_exact_and_other_statistics_do_not_merge():
    x = np.ones(3, dtype=np.float32)
    with pytest.raises(DataError, match="raw values"):
        TensorStats.exact(x).merge(TensorStats.of(x))


def test_counters_do_not_overflow():
    x = np.full(1000, 3.0, dtype=np.float32)
    y = np.linspace(1, 2, 50, dtype=np.float32)
    with (
        mock.patch("calibrant.stats.counts._FULL", 2500),
        mock.patch("calibrant.stats.tensor.FEW", 9),
    ):
        seen = Accumulator()
        seen.add(y)  # enough different ones for bins
        for _ in range(9):
            seen.add(x)
        stats = seen.result()
    assert stats.count == 9050
    assert stats.points()[1].max() == 9000
    assert (stats.min, stats.max) == (1, 3)


def test_a_batch_of_more_values_than_a_counter_holds_is_split():
    x = np.append(np.linspace(-1, 1, 999, dtype=np.float32), np.float32(np.nan))
    with (
        mock.patch("calibrant.stats.counts._FULL", 100),
        mock.patch("calibrant.stats.tensor.FEW", 9),
    ):
        seen = Accumulator()
        seen.add(x[:50])
        assert seen.add(x) == 999
        assert seen.result().count == 999 + 50
