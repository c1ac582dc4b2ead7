"""Grids, the min/max kernel, and the arithmetic between values and integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from calibrant.errors import ConfigValueError, DataError
from calibrant.numerics import IntType, QuantParams, QuantSpec, dequantize, fake_quantize, quantize
from tests import strategies


@pytest.mark.parametrize(
    ("bits", "low", "high"),
    [(4, -8, 7), (6, -32, 31), (7, -64, 63), (8, -128, 127), (16, -32768, 32767)],
)
def test_grids(bits, low, high):
    grid = IntType(bits)
    assert (grid.qmin, grid.qmax) == (low, high)
    assert (IntType(bits, narrow=True).qmin, grid.name) == (low + 1, f"int{bits}")


@pytest.mark.parametrize("bits", [0, 5, 32, True, 8.5])
def test_other_widths_do_not_exist(bits):
    with pytest.raises(ConfigValueError, match="one of 4, 6, 7, 8, 16"):
        IntType(bits)


@pytest.mark.parametrize(
    ("hi", "lo", "symmetric", "scale", "zero_point"),
    [  # docs/explanation/grid.md, worked values
        (3, -3, True, 3 / 127, 0),
        (1, -3, True, 3 / 128, 0),
        (127, -128, True, 1.0, 0),
        (5, 1, False, 5 / 255, -128),
        (-1, -5, False, 5 / 255, 127),
        (0, 0, False, 1.0, -128),
        (0, 0, True, 1.0, 0),
        (1e-10, -1e-10, False, 2e-10 / 255, 0),
        (1e-10, -1e-10, True, 1e-10 / 127, 0),
        (3e38, -3e38, False, 6e38 / 255, 0),
    ],
)
def test_kernel(hi, lo, symmetric, scale, zero_point):
    params = QuantParams.from_range(lo, hi, QuantSpec(symmetric=symmetric))
    assert float(params.scale) == pytest.approx(scale, rel=1e-7)
    assert int(params.zero_point) == zero_point


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_vendors_kernel_makes_tiny_scales_one(symmetric):
    spec = QuantSpec(symmetric=symmetric, tiny_to_one=True)
    params = QuantParams.from_range([-1e-10, -1.0], [1e-10, 1.0], spec)
    assert params.scale.tolist() == [
        1.0,
        np.float32(1) / np.float32(127) if symmetric else np.float32(2) / np.float32(255),
    ]
    assert params.zero_point.tolist() == ([0, 0] if symmetric else [-128, -1])


def test_kernel_per_channel():
    spec = QuantSpec(symmetric=True, axis=1)
    params = QuantParams.from_range([-1.0, -3.0, 0.0], [3.0, 1.0, 0.0], spec)
    assert params.scale.tolist() == [np.float32(3 / 127), np.float32(3 / 128), 1.0]
    x = np.array([[3.0, -3.0, 0.0], [-9.0, 9.0, 0.5]])
    assert quantize(x, params).tolist() == [[127, -128, 0], [-128, 127, 0]]


@pytest.mark.parametrize("end", [np.nan, np.inf])
def test_a_range_is_finite(end):
    with pytest.raises(DataError, match="not finite"):
        QuantParams.from_range(0, end, QuantSpec())


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-45])
def test_a_scale_and_its_inverse_are_finite_and_positive(scale):
    with pytest.raises(DataError, match="finite and above 0"):
        QuantParams(np.array(scale, np.float32), np.array(0, np.int32), IntType(8))


@given(strategies.arrays(elements=strategies.floats32(1e6)), strategies.specs())
def test_values_in_range_are_off_by_half_a_step_at_most(x, spec):
    params = QuantParams.from_range(x.min(), x.max(), spec)
    step = float(params.scale)
    low, high = params.range
    inside = x.astype(np.float64).clip(low, high)  # rounding of the zero point moves the ends
    error = np.abs(fake_quantize(x, params) - inside)
    assert error.max() <= step * (0.5 + 1e-3) + 1e-6 * np.abs(x).max()


@given(strategies.arrays(elements=strategies.floats32(1e6)), strategies.specs())
def test_zero_is_exact_and_quantizing_twice_changes_nothing(x, spec):
    params = QuantParams.from_range(x.min(), x.max(), spec)
    assert fake_quantize(0.0, params) == 0
    once = quantize(x, params)
    assert (once >= params.dtype.qmin).all()
    assert (once <= params.dtype.qmax).all()
    np.testing.assert_array_equal(quantize(dequantize(once, params), params), once)


@given(strategies.tame_arrays(), st.integers(-10, 10), strategies.specs())
def test_a_power_of_two_scales_the_scale(x, exponent, spec):
    a = QuantParams.from_range(x.min(), x.max(), spec)
    y = np.ldexp(x, exponent)
    b = QuantParams.from_range(y.min(), y.max(), spec)
    spread = max(x.max(), 0) - min(x.min(), 0)
    # below the guard (spread over levels < 2**-23) the scale is 1, whatever the data
    assume(min(spread, spread * 2.0**exponent) > 2**16 * 2.0**-22)
    assert b.scale == np.ldexp(a.scale, exponent)
    assert b.zero_point == a.zero_point


def test_rounding_is_half_to_even():
    params = QuantParams(np.array(1, np.float32), np.array(1, np.int32), IntType(8))
    assert quantize([0.5, 1.5, 2.5, -0.5, -1.5], params).tolist() == [1, 3, 3, 1, -1]


def test_an_axis_counts_from_zero():
    with pytest.raises(ConfigValueError, match="axis is -1"):
        QuantSpec(axis=-1)
