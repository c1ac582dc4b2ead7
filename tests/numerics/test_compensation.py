"""A second 8-bit value: its error bound, its place between 8 and 16 bits, and what it does not hide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.numerics import QuantParams, QuantSpec, fake_quantize, quantize
from calibrant.numerics.compensation import compensate, residual, residual_params


def grid(bound: float, bits: int = 8) -> QuantParams:
    return QuantParams.from_range(-bound, bound, QuantSpec(bits=bits, symmetric=True))


@given(st.floats(1e-3, 1e4), st.integers(0, 2**32 - 1))
def test_in_range_the_error_is_at_most_a_508th_of_a_step(bound: float, seed: int) -> None:
    x = np.random.default_rng(seed).uniform(-bound, bound, 500).astype(np.float32)
    p = grid(bound)
    error = np.abs(x.astype(np.float64) - compensate(x, p)).max()
    assert error <= float(p.scale) / 508 + 4e-7 * bound  # and what float32 rounds


def test_compensation_lies_between_8_and_16_bits_and_close_to_16() -> None:
    """The error is at most s / 508, and close to that of 16 bits."""
    x = np.random.default_rng(0).uniform(-3, 3, 200_000).astype(np.float32)
    eight, sixteen = (np.abs(x - fake_quantize(x, grid(3.0, b))).max() for b in (8, 16))
    both = np.abs(x - compensate(x, grid(3.0))).max()
    assert eight > 100 * both
    assert sixteen <= both <= 1.05 * sixteen


def test_what_is_clipped_stays_clipped() -> None:
    p = grid(1.0)
    s = float(p.scale)
    found = compensate(np.array([2.0, -2.0], np.float32), p)
    second = s / 254
    np.testing.assert_allclose(found, [127 * s + 127 * second, -128 * s - 128 * second], rtol=1e-6)


def test_the_worked_numbers() -> None:
    """s1 = 254 and s2 = 1: 300 is 1 * 254 + 46, and 127.4 is 1 * 254 - 127 (rounded to even)."""
    p = QuantParams(np.array(254, np.float32), np.array(0, np.int32), QuantSpec().dtype)
    x = np.array([300.0, 127.4, 0.4], np.float32)
    q = quantize(x, p)
    assert q.tolist() == [1, 1, 0]
    assert residual(x, q, p).tolist() == [46, -127, 0]
    assert compensate(x, p).tolist() == [300.0, 127.0, 0.0]


@pytest.mark.parametrize("axis", [0, 1])
def test_each_channel_has_a_second_scale_of_its_own(axis: int) -> None:
    rng = np.random.default_rng(1)
    gains = np.geomspace(0.01, 10, 6).astype(np.float32)
    x = rng.uniform(-1, 1, (6, 6)).astype(np.float32) * np.expand_dims(gains, 1 - axis)
    p = QuantParams.from_range(-gains, gains, QuantSpec(symmetric=True, axis=axis))
    assert residual_params(p).scale.shape == (6,)
    error = np.abs(x - compensate(x, p)).max(axis=1 - axis)
    assert (error <= p.scale / 500).all()


def test_a_zero_point_belongs_to_the_first_value_alone() -> None:
    p = QuantParams.from_range(-0.5, 3.5, QuantSpec())
    x = np.random.default_rng(2).uniform(-0.5, 3.5, 1000).astype(np.float32)
    assert int(p.zero_point) != 0
    assert not residual_params(p).zero_point.any()
    assert np.abs(x - compensate(x, p)).max() <= float(p.scale) / 500
