"""Algorithms that take their range from the data or from the user: min-max, max, percentile, fixed."""

from __future__ import annotations

import numpy as np
import pytest

from calibrant import algorithms
from calibrant.algorithms._distribution import distribution
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats
from tests.strategies import distributions

DATA = distributions(50_000, seed=3)
SYMMETRIC, FREE = QuantSpec(symmetric=True), QuantSpec(symmetric=False)


def same(a, b):
    return a.scale == b.scale and a.zero_point == b.zero_point


@pytest.mark.parametrize("shape", DATA)
def test_min_max_covers_all_values(shape):
    x = DATA[shape]
    for spec in (SYMMETRIC, FREE):
        p = algorithms.activation("min-max")(TensorStats.of(x), spec)
        assert same(p, QuantParams.from_range(x.min(), x.max(), spec))


@pytest.mark.parametrize("shape", DATA)
def test_max_is_the_largest_magnitude(shape):
    x = DATA[shape]
    p = algorithms.activation("max")(TensorStats.of(x), SYMMETRIC)
    assert float(p.scale) == np.abs(x).max() / np.float32(127)
    p = algorithms.activation("max")(TensorStats.of(x), FREE)
    assert same(p, QuantParams.from_range(x.min(), x.max(), FREE))


@pytest.mark.parametrize("q", [0.99999, 0.9995, 0.99, 0.5])
@pytest.mark.parametrize("shape", DATA)
def test_max_with_a_percentile_is_numpys_quantile(shape, q):
    x = np.abs(DATA[shape].astype(np.float64))
    expected = np.quantile(x, q)
    for stats in (TensorStats.of(DATA[shape]), TensorStats.exact(DATA[shape])):
        found = distribution(stats).folded().quantile(q)
        assert found == pytest.approx(
            expected, rel=1e-12 if stats.is_exact else 1 / 2048, abs=1e-9
        )
        p = algorithms.activation("max", max_percentile=q)(stats, SYMMETRIC)
        if expected > 1e-3:
            assert float(p.scale) == pytest.approx(found / 127, rel=1e-6)


@pytest.mark.parametrize("q", [0.99999, 0.99995, 0.99])
@pytest.mark.parametrize("shape", DATA)
def test_percentile_is_numpys_quantile_at_either_end(shape, q):
    low, high = np.quantile(DATA[shape].astype(np.float64), [1 - q, q])
    x = distribution(TensorStats.of(DATA[shape]))
    assert x.quantile(q) == pytest.approx(high, rel=1 / 2048, abs=1e-9)
    assert x.quantile(1 - q) == pytest.approx(low, rel=1 / 2048, abs=1e-9)
    p = algorithms.activation("percentile", percentile=q)(TensorStats.of(DATA[shape]), FREE)
    assert same(p, QuantParams.from_range(x.quantile(1 - q), x.quantile(q), FREE))


@pytest.mark.parametrize("exact", [True, False])
def test_an_outlier_moves_no_percentile_below_it(exact):
    make = TensorStats.exact if exact else TensorStats.of
    bulk = DATA["normal"]
    clean = distribution(make(bulk))
    dirty = distribution(make(np.append(bulk, np.float32(1e4 * bulk.max()))))
    for rank in (0, 10, 25_000, 49_990, 49_999):
        assert dirty.order_statistic(rank) == pytest.approx(
            clean.order_statistic(rank), rel=1 / 2048
        )
    assert dirty.order_statistic(50_000) == np.float32(1e4 * bulk.max())


def test_constant_data_has_one_quantile():
    for percentile in (0.51, 0.99995, 1.0):
        p = algorithms.activation("percentile", percentile=percentile)(
            TensorStats.of(np.full(7, 0.3)), FREE
        )
        assert float(p.scale) == np.float32(0.3) / np.float32(255)


def test_fixed_needs_no_data():
    fixed = algorithms.activation("fixed")
    assert same(fixed(TensorStats.of(np.empty(0)), FREE), QuantParams.from_range(0, 1, FREE))
    p = algorithms.activation("fixed", low=-1.0, high=1.0)(TensorStats.of(np.ones(3)), SYMMETRIC)
    assert float(p.scale) == np.float32(1 / 127)
