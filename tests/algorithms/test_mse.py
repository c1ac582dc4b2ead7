"""The least squared error search, and the two ways its loss is computed."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant import algorithms
from calibrant.algorithms._distribution import distribution, least_error
from calibrant.algorithms._loss import squared_errors
from calibrant.numerics import QuantParams, QuantSpec, fake_quantize
from calibrant.stats import TensorStats
from tests import strategies
from tests.strategies import distributions

DATA = distributions(5000, seed=2)


def range_losses(x, lo, hi, spec, **how):
    """The sum of squared errors of each range (candidates,), zero point and all."""
    p = QuantParams.from_range(lo, hi, spec)
    first, last = p.dtype.qmin - p.zero_point, p.dtype.qmax - p.zero_point
    return squared_errors(x, p.scale, first, last, **how)


def loss(x, params):
    return np.sum((x.astype(np.float64) - fake_quantize(x, params)) ** 2)


@pytest.mark.parametrize("way", ["by level", "by bin"])
@given(strategies.tame_arrays(), strategies.specs())
def test_losses_of_values_are_sums_of_squares(way, x, spec):
    ends = [(x.min() * r, x.max() * r) for r in (1.0, 0.7, 0.3)]
    with mock.patch(
        "calibrant.algorithms._loss._MANY_LEVELS", 1 << 20 if way == "by level" else 0
    ):
        lower, upper = np.array(ends).T
        found = range_losses(distribution(TensorStats.exact(x)), lower, upper, spec)
    for (lo, hi), value in zip(ends, found, strict=True):
        p = QuantParams.from_range(lo, hi, spec)
        # half a step more where float32 division and float64 round to different sides
        assert value == pytest.approx(loss(x, p), rel=1e-3, abs=1e-6 * float(np.sum(x**2.0)))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_two_ways_agree_on_bins(bits, symmetric):
    spec = QuantSpec(bits=bits, symmetric=symmetric)
    ratio = np.linspace(0.2, 1.2, 11)
    for shape, x in DATA.items():
        with mock.patch("calibrant.stats.tensor.FEW", 0):
            seen = distribution(TensorStats.of(x))
        levels = range_losses(seen, ratio * x.min(), ratio * x.max(), spec)
        with mock.patch("calibrant.algorithms._loss._MANY_LEVELS", 0):
            bins = range_losses(seen, ratio * x.min(), ratio * x.max(), spec)
        np.testing.assert_allclose(
            levels, bins, rtol=1e-6, atol=1e-11 * seen.square_below[-1], err_msg=shape
        )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_never_worse_than_min_max_nor_than_a_brute_search(bits, symmetric):
    spec = QuantSpec(bits=bits, symmetric=symmetric)
    mse = algorithms.activation("mse")
    for shape, x in DATA.items():
        stats = TensorStats.of(x)
        found = loss(x, mse(stats, spec))
        tries = [(x.min() * r, x.max() * r) for r in np.geomspace(1e-3, 1, 60)]
        if not symmetric:
            tries += [(x.min(), x.max() * r) for r in np.linspace(0.05, 1, 40)]
            tries += [(x.min() * r, x.max()) for r in np.linspace(0.05, 1, 40)]
        rivals = [loss(x, QuantParams.from_range(lo, hi, spec)) for lo, hi in tries]
        # the search sees its loss up to rounding; 1e-13 of the energy is far below a step at 16 bits
        slack = 1e-9 * loss(x, QuantParams.from_range(0, 0, spec)) if bits < 16 else 0
        assert found <= min(rivals) * 1.002 + slack * 1e-4, shape


def test_an_outlier_is_seen_past():
    x = np.append(np.random.default_rng(0).uniform(-1, 1, 10**6), 50.0).astype(np.float32)
    p = algorithms.activation("mse")(TensorStats.of(x), QuantSpec(bits=4, symmetric=True))
    assert p.range[1] < 10


def test_options_change_the_result():
    stats = TensorStats.of(DATA["cauchy"])
    spec = QuantSpec(bits=4)
    scale = algorithms.activation("mse")(stats, spec).scale
    assert algorithms.activation("mse", smallest_ratio=0.9)(stats, spec).scale != scale
    coarse = algorithms.activation("mse", steps=2)(stats, spec)
    assert coarse.scale != scale


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_giving_up_candidates_on_the_way_does_not_change_the_best(bits):
    spec = QuantSpec(bits=bits)
    ratio = np.geomspace(1.2, 1e-3, 60)
    given_up = 0
    for shape, x in DATA.items():
        for make in (TensorStats.exact, TensorStats.of):
            seen = distribution(make(x))
            every = range_losses(seen, ratio * x.min(), ratio * x.max(), spec)
            pruned = range_losses(seen, ratio * x.min(), ratio * x.max(), spec, prune=True)
            assert np.argmin(pruned) == np.argmin(every), shape
            some = np.isfinite(pruned)
            np.testing.assert_array_equal(pruned[some], every[some])
            assert (every[~some] > every.min()).all()
            given_up += (~some).sum()
    assert given_up > 10 * len(DATA)


@pytest.mark.parametrize("many", [1, 1 << 20])
def test_grids_of_one_scale_lose_what_each_loses_alone(many):
    scale = np.array([0.02, 0.05])
    first = np.array([[-128, -130, -120], [-3, 0, -255]])
    for shape, x in DATA.items():
        seen = distribution(TensorStats.of(x))
        with mock.patch("calibrant.algorithms._loss._MANY_LEVELS", many):
            together = squared_errors(seen, scale, first, first + 255)
            for (i, k), loss in np.ndenumerate(together):
                one = slice(i, i + 1)
                alone = squared_errors(seen, scale[one], first[one, k], first[one, k] + 255)
                assert alone == pytest.approx(loss, rel=1e-12), shape


@given(strategies.tame_arrays(), st.floats(-2, 2), st.integers(0, 3000))
def test_a_bin_is_found_from_its_place_in_the_range(x, part, after):
    seen = distribution(TensorStats.exact(x))
    threshold = float(np.abs(x).max()) * part
    true = int(np.minimum(np.searchsorted(seen.upper, threshold), seen.upper.size - 1))
    values = *seen.bins, *seen.sums, seen.square_below
    *_, near, first, a_unit = least_error()._table(values)
    found = least_error()._place(seen.upper, near, first, a_unit, threshold, min(after, true))
    assert found == true
