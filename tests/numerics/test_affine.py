"""Rounding to a grid: many values go through compiled code, and come out as few do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.numerics import QuantParams, QuantSpec, affine, dequantize, quantize
from calibrant.plan.parameters import LayerParameters


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 8, 16]),
    st.sampled_from([None, 0, 1, -1]),
    st.booleans(),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e6, 1e30]),
)
def test_many_values_are_rounded_as_few(
    seed: int, bits: int, axis: int | None, symmetric: bool, size: float
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(0, size, (6, 5, 4)) * 10.0 ** rng.integers(-3, 4, (6, 5, 1))).astype(
        np.float32
    )
    x.reshape(-1)[:3] = 0, np.inf, -np.inf
    spec = QuantSpec(bits=bits, symmetric=symmetric, axis=None if axis is None else axis % 3)
    others = None if axis is None else tuple(i for i in range(3) if i != axis % 3)
    finite = np.where(np.isfinite(x), x, 0)
    p = QuantParams.from_range(finite.min(others), finite.max(others), spec)
    few = quantize(x, p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affine, "_MANY", 1)
        many = quantize(x, p)
        np.testing.assert_array_equal(quantize(np.asfortranarray(x), p), few)
    np.testing.assert_array_equal(many, few)
    assert many.dtype == np.int32


def test_values_that_are_no_numbers_are_rounded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    p = QuantParams.from_range(-1, 1, QuantSpec())
    with np.errstate(invalid="ignore"):
        few = quantize([np.nan, 0.5], p)
        monkeypatch.setattr(affine, "_MANY", 1)
        np.testing.assert_array_equal(quantize([np.nan, 0.5], p), few)


@given(st.integers(0, 2**32 - 1), st.sampled_from([np.int8, np.int16, np.int32, np.int64]))
def test_integers_stand_for_the_product_rounded_once(seed: int, kind: type) -> None:
    rng = np.random.default_rng(seed)
    info = np.iinfo(kind)
    q = rng.integers(info.min, info.max, 50, dtype=kind, endpoint=True)
    p = QuantParams.from_range(
        -rng.uniform(0.1, 9), rng.uniform(0.1, 9), QuantSpec(symmetric=False)
    )
    exact = (q.astype(np.float64) - p.zero_point) * p.scale.astype(np.float64)
    np.testing.assert_array_equal(dequantize(q, p), exact.astype(np.float32))


@pytest.mark.parametrize(("bits", "kind"), [(4, np.int8), (8, np.int8), (16, np.int16)])
def test_weights_are_stored_in_few_bytes(bits: int, kind: type) -> None:
    p = QuantParams.from_range(-1, 1, QuantSpec(bits=bits, symmetric=True))
    values = np.array([p.dtype.qmin, 0, p.dtype.qmax], dtype=np.int32)
    layer = LayerParameters(p, values)
    assert layer.stored.dtype == kind
    assert layer.values.dtype == np.int32
    np.testing.assert_array_equal(layer.values, values)
    far = LayerParameters(p, values * 300)  # beyond the grid: kept as it is
    np.testing.assert_array_equal(far.values, values * 300)
