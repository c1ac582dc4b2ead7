"""What every activation algorithm does, whoever wrote it: a new file is tested by being there."""

from __future__ import annotations

import pickle
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant import algorithms
from calibrant.errors import DataError
from calibrant.numerics import QuantSpec, fake_quantize
from calibrant.stats import TensorStats
from tests import strategies

EVERY = algorithms.names()["activation"]
SEEING = [name for name in EVERY if name != "fixed"]  # those that look at the data
SPECS = [QuantSpec(bits=b, symmetric=s) for b in (4, 8, 16) for s in (False, True)]


def binned(x):
    """Statistics in bins, however few the values."""
    with mock.patch("calibrant.stats.tensor.FEW", 0):
        return TensorStats.of(x)


def samples(size=800, seed=0):
    return strategies.distributions(size, seed).items()


@pytest.mark.parametrize("name", EVERY)
def test_the_registry_describes_what_it_makes(name):
    algorithm = algorithms.activation(name)
    for option in algorithms.describe("activation", name):
        assert getattr(algorithm, option.name) == option.default
        assert option.doc.endswith(".")
        assert option.allowed
    assert pickle.loads(pickle.dumps(algorithm)) == algorithm  # workers receive it so


@pytest.mark.parametrize("name", SEEING)
def test_no_data_and_bad_data_are_errors(name):
    algorithm = algorithms.activation(name)
    with pytest.raises(DataError, match="no values"):
        algorithm(TensorStats.of(np.empty(0)), QuantSpec())
    with pytest.raises(DataError, match="NaN or Inf"):
        algorithm(TensorStats.of(np.array([1.0, np.nan])), QuantSpec())


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("name", SEEING)
def test_zeros_have_scale_one_and_tiny_values_where_a_vendor_wants_it(name, spec):
    vendor = replace(spec, tiny_to_one=True)
    tiny = np.full(7, 1e-10), np.array([1e-12, -1e-11, 0, 3e-12])
    for wanted, arrays in ((spec, [np.zeros(100)]), (vendor, [np.zeros(100), *tiny])):
        for x in arrays:
            for stats in (TensorStats.exact(x), binned(x)):
                params = algorithms.activation(name)(stats, wanted)
                assert params.scale == 1
                assert params.zero_point == (0 if spec.symmetric else spec.dtype.qmin)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("name", SEEING)
def test_values_at_the_ends_of_float32_have_a_scale_that_can_be_divided_by(name, spec):
    largest = float(np.finfo(np.float32).max)
    for x in ([1e-44, -1e-44], [1e-38, 0], [largest, -largest], [largest, 0], [-largest, -1e38]):
        for stats in (TensorStats.exact(np.array(x)), binned(np.array(x))):
            params = algorithms.activation(name)(stats, spec)
            assert np.isfinite(params.scale)
            assert np.float32(2.0**-126) <= params.scale
            assert spec.dtype.qmin <= params.zero_point <= spec.dtype.qmax


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("name", SEEING)
@pytest.mark.parametrize("value", [3.0, -3.0, 0.1, -1000.0])
def test_a_constant_is_represented(name, spec, value):
    for x in ([value], np.full(50, value)):
        for stats in (TensorStats.exact(x), binned(np.array(x))):
            params = algorithms.activation(name)(stats, spec)
            assert fake_quantize(value, params) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("name", SEEING)
def test_the_grid_is_used(name, spec):
    for shape, x in samples():
        for stats in (TensorStats.exact(x), binned(x)):
            params = algorithms.activation(name)(stats, spec)
            low, high = params.range
            assert low <= 0 <= high, shape
            assert params.scale.shape == ()
            assert params.zero_point == 0 or not spec.symmetric
            # not much wider than the data, and some of the data is more than one step from zero
            assert max(-low, high) <= 2.7 * np.abs(x).max(), shape
            assert np.abs(x).max() > params.scale / 2, shape


@pytest.mark.parametrize("name", SEEING)
def test_the_result_depends_on_the_data_alone(name):
    rng = np.random.default_rng(1)
    algorithm = algorithms.activation(name)
    for _, x in samples():
        parts = np.array_split(rng.permutation(x), 3)
        merged = binned(parts[2]).merge(binned(parts[0])).merge(binned(parts[1]))
        for spec in SPECS[2:]:
            a, b = algorithm(binned(x), spec), algorithm(merged, spec)
            assert (a.scale, a.zero_point) == (b.scale, b.zero_point)


@pytest.mark.parametrize("name", SEEING)
@settings(max_examples=15)
@given(strategies.tame_arrays(), st.integers(-90, 90), strategies.specs(), st.booleans())
def test_a_power_of_two_scales_the_range(name, x, exponent, spec, exact):
    make = TensorStats.exact if exact else binned
    y = np.ldexp(x, exponent)
    algorithm = algorithms.activation(name)
    a, b = algorithm(make(x), spec), algorithm(make(y), spec)
    if x.any():
        assert np.ldexp(a.scale, exponent) == b.scale
    assert a.zero_point == b.zero_point


@pytest.mark.parametrize("name", SEEING)
@settings(max_examples=15)
@given(strategies.arrays(elements=strategies.floats32(1e30)), strategies.specs(), st.booleans())
def test_any_finite_data_gives_parameters(name, x, spec, exact):
    params = algorithms.activation(name)((TensorStats.exact if exact else binned)(x), spec)
    assert params.dtype == spec.dtype
    assert params.dtype.qmin <= params.zero_point <= params.dtype.qmax


@pytest.mark.parametrize("name", SEEING)
def test_a_single_scale_a_tensor(name):
    with pytest.raises(ValueError, match="axis"):
        algorithms.activation(name)(TensorStats.of(np.ones(3)), QuantSpec(axis=1))
