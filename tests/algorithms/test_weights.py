"""ARQ and the least squared error of weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant import algorithms
from calibrant.errors import ConfigValueError, DataError
from calibrant.numerics import QuantSpec, fake_quantize, quantize
from tests import strategies

W = np.array([[0.5, -1, 0.25], [0.1, 0.2, -0.05], [0, 0, 0]], dtype=np.float32)
EVERY = algorithms.names()["weight"]
EIGHT_BITS = ("nuq",)  # algorithms of the 8-bit grid alone


def spec(bits=8, axis=0):
    return QuantSpec(bits=bits, symmetric=True, axis=axis)


def error(w, params, axis):
    d = np.moveaxis(w - fake_quantize(w, params), axis, 0)
    return (d.reshape(d.shape[0], -1).astype(np.float64) ** 2).sum(axis=1)


def test_worked_example_of_arq():
    p = algorithms.weight("arq")(W, spec())
    assert p.scale.tolist() == [np.float32(1 / 128), np.float32(0.2 / 127), 1.0]
    assert quantize(W, p).tolist() == [[64, -128, 32], [64, 127, -32], [0, 0, 0]]
    p = algorithms.weight("arq")(W, spec(axis=None))
    assert p.scale.shape == ()
    assert quantize(W, p).tolist() == [[64, -128, 32], [13, 26, -6], [0, 0, 0]]


@pytest.mark.parametrize("bits", [4, 6, 7, 8, 16])
def test_arq_covers_every_weight(bits):
    w = np.random.default_rng(0).normal(size=(5, 4, 3, 3)).astype(np.float32)
    for axis in (0, 1, 3, None):
        p = algorithms.weight("arq")(w, spec(bits, axis))
        rest = tuple(i for i in range(4) if i != axis)
        low, high = w.min(axis=rest), w.max(axis=rest)
        levels = np.where(-low > high, 2 ** (bits - 1), 2 ** (bits - 1) - 1)
        np.testing.assert_allclose(p.scale, np.maximum(-low, high) / levels, rtol=1e-6)
        assert p.axis == axis
        assert np.abs(w - fake_quantize(w, p)).max() <= p.scale.max() * 0.5001


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mse_is_never_worse_than_arq_and_better_at_four_bits(bits, axis):
    rng = np.random.default_rng(1)
    w = (rng.standard_t(4, size=(7, 6, 50)) * 10.0 ** rng.integers(-3, 3, (7, 6, 1))).astype(
        np.float32
    )
    arq = error(w, algorithms.weight("arq")(w, spec(bits, axis)), axis)
    mse = error(w, algorithms.weight("mse")(w, spec(bits, axis)), axis)
    assert (mse <= arq * (1 + 1e-6)).all()
    if bits == 4:
        assert mse.sum() < 0.95 * arq.sum()


def test_mse_per_tensor_and_in_chunks():
    w = np.random.default_rng(2).normal(size=(300, 400)).astype(np.float32)
    whole = algorithms.weight("mse")(w, spec(4, 0))
    rows = [algorithms.weight("mse")(row, spec(4, None)).scale for row in w[::50]]
    np.testing.assert_array_equal(whole.scale[::50], rows)


def test_options_change_the_result():
    w = np.random.default_rng(3).standard_t(2, size=500).astype(np.float32)
    scale = algorithms.weight("mse")(w, spec(4, None)).scale
    assert algorithms.weight("mse", smallest_ratio=0.9)(w, spec(4, None)).scale != scale
    assert algorithms.weight("mse", steps=3)(w, spec(4, None)).scale != scale


@pytest.mark.parametrize("name", EVERY)
@given(strategies.tame_arrays(), st.integers(-8, 8), st.sampled_from([4, 6, 7, 8]))
def test_a_power_of_two_scales_the_scale(name, w, exponent, bits):
    bits = 8 if name in EIGHT_BITS else bits
    a = algorithms.weight(name)(w, spec(bits, None))
    b = algorithms.weight(name)(np.ldexp(w, exponent), spec(bits, None))
    if w.any():
        assert np.ldexp(a.scale, exponent) == b.scale


@pytest.mark.parametrize("name", EVERY)
def test_zeros_have_scale_one_and_tiny_channels_where_a_vendor_wants_it(name):
    w = np.array([[0.0, 0.0], [1e-10, -1e-10], [1.0, 0.5]])
    vendor = replace(spec(), tiny_to_one=True)
    assert algorithms.weight(name)(w, vendor).scale.tolist()[:2] == [1.0, 1.0]
    own = algorithms.weight(name)(w, spec()).scale
    assert own[0] == 1
    assert 0 < own[1] < 1e-11


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=20)
@given(strategies.tame_arrays(min_size=6, max_size=6), st.integers(-90, 90), st.booleans())
def test_a_power_of_two_scales_the_scales(name, x, exponent, per_channel):
    w = x.reshape(2, 3)
    wanted = spec(axis=0 if per_channel else None)
    algorithm = algorithms.weight(name)
    before, after = algorithm(w, wanted).scale, algorithm(np.ldexp(w, exponent), wanted).scale
    empty = ~w.any(axis=1) if per_channel else not w.any()
    np.testing.assert_array_equal(np.where(empty, 1, np.ldexp(before, exponent)), after)


@pytest.mark.parametrize("name", EVERY)
def test_a_channel_of_subnormal_numbers(name):
    """Dead channels of trained networks hold them: nothing is warned of, and the other channels are as without it."""
    w = np.array([[1e-39, -3e-40], [1.0, 0.5]], dtype=np.float32)
    found = algorithms.weight(name)(w, spec()).scale
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert found[1] == algorithms.weight(name)(w[1:], spec()).scale[0]


@pytest.mark.parametrize("name", EVERY)
def test_half_precision_is_upcast(name):
    w = np.array([[0.5, -1.0]], dtype=np.float16)
    assert algorithms.weight(name)(w, spec()).scale.dtype == np.float32


@pytest.mark.parametrize("name", EVERY)
def test_errors(name):
    algorithm = algorithms.weight(name)
    with pytest.raises(ConfigValueError, match="symmetric"):
        algorithm(W, QuantSpec(symmetric=False))
    with pytest.raises(ConfigValueError, match=r"axis is 2; a weight of shape \(3, 3\)"):
        algorithm(W, spec(axis=2))
    with pytest.raises(DataError, match="int64"):
        algorithm(np.ones(3, dtype=np.int64), spec())
    with pytest.raises(DataError, match="no values"):
        algorithm(np.empty((0, 3), dtype=np.float32), spec())
    with pytest.raises(DataError, match="weight holds NaN or Inf"):
        algorithm(np.array([1.0, np.nan]), spec())
