"""What is not finite leaves every mean and every pair, and nothing else does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from calibrant.numerics.finite import (
    finite_mask,
    finite_or_zero,
    finite_pairs,
    mean_square,
    means_by_channel,
)

numbers = st.floats(-1e3, 1e3, width=32)
gaps = st.one_of(numbers, st.sampled_from([np.nan, np.inf, -np.inf]))
shapes = array_shapes(min_dims=2, max_dims=4, max_side=4)


@given(arrays(np.float32, shapes, elements=gaps), st.data())
def test_a_mean_by_channel_is_that_of_the_finite_values(
    x: np.ndarray, data: st.DataObject
) -> None:
    axis = data.draw(st.sampled_from([1, -1]))
    mask = data.draw(st.none() | arrays(np.bool_, x.shape))
    found = means_by_channel(x, axis, mask)
    channels = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    masks = np.ones(x.shape, bool) if mask is None else mask
    kept = np.moveaxis(masks, axis, 0).reshape(x.shape[axis], -1) & np.isfinite(channels)
    for mean, values, keep in zip(found, channels, kept, strict=True):
        wanted = values[keep].astype(np.float64).mean() if keep.any() else 0
        np.testing.assert_allclose(mean, wanted, rtol=1e-4, atol=1e-3)


@given(arrays(np.float32, shapes, elements=numbers))
def test_finite_arrays_pass_as_they_are(x: np.ndarray) -> None:
    assert finite_mask(x) is None
    assert finite_or_zero(x) is x
    assert finite_pairs(x, x + 1)[0] is x


@given(arrays(np.float32, st.integers(1, 20), elements=gaps))
def test_pairs_are_those_where_the_reference_is_finite(x: np.ndarray) -> None:
    finite = np.isfinite(x)
    a, b = finite_pairs(x, np.arange(x.size))
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(b, np.flatnonzero(finite))
    kept = x[finite].astype(np.float64)
    wanted = float((kept**2).mean()) if kept.size else 0.0
    np.testing.assert_allclose(mean_square([x, x]), wanted, rtol=1e-4, atol=1e-30)
    np.testing.assert_array_equal(finite_or_zero(x)[finite], x[finite])
    assert not finite_or_zero(x)[~finite].any()


def test_finite_values_whose_squares_overflow_are_finite() -> None:
    large = np.full((2, 3), 3e38, np.float32)
    assert finite_mask(large) is None
    large[1, 2] = np.inf
    mask = finite_mask(large)
    assert mask is not None
    assert mask.sum() == 5
