"""Sums by channel are exact, so they depend on nothing but the values."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibrant.errors import DataError
from calibrant.stats import Accumulator, TensorStats
from tests import strategies

TENSORS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4)),
    elements=strategies.floats32(),
)


@given(TENSORS, st.integers(-3, 2))
def test_sums_are_correctly_rounded(x, axis):
    channels = TensorStats.of(x, channel_axis=axis).channels
    rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).astype(np.float64)
    assert channels.sum.tolist() == [math.fsum(row) for row in rows]
    assert channels.sum_squares.tolist() == [math.fsum(row * row) for row in rows]
    assert channels.min.tolist() == rows.min(axis=1).tolist()
    assert channels.max.tolist() == rows.max(axis=1).tolist()
    assert channels.count.tolist() == [rows.shape[1]] * rows.shape[0]
    assert channels.axis == axis % 3


@given(TENSORS, st.booleans())
def test_merging_and_accumulating_agree_bit_for_bit(x, exact):
    whole = Accumulator(channel_axis=1, exact=exact)
    whole.add(x)
    seen = Accumulator(channel_axis=1, exact=exact)
    make = TensorStats.exact if exact else TensorStats.of
    merged = make(x[:0], channel_axis=1)
    for sample in x[::-1]:
        seen.add(sample[None])
        merged = make(sample[None], channel_axis=1).merge(merged)
    assert seen.result() == whole.result() == merged


def test_a_sum_that_floating_point_would_lose():
    x = np.array([[1e30, 1.0, -1e30, 1e-30]], dtype=np.float32).T
    assert TensorStats.of(x, channel_axis=1).channels.sum[0] == math.fsum(x[:, 0].tolist())


def test_limbs_are_carried_in_time():
    x = np.full((100, 1), np.float32(-1.9999999))
    with mock.patch("calibrant.stats.channels._ROOM", 250):
        seen = Accumulator(channel_axis=1)
        for _ in range(10):
            seen.add(x)
    assert seen.result().channels.sum[0] == 1000 * float(x[0, 0])


def test_values_that_are_not_finite_are_left_out():
    x = np.array([[1.0, np.nan], [3.0, np.inf]], dtype=np.float32)
    channels = TensorStats.of(x, channel_axis=1).channels
    assert channels.count.tolist() == [2, 0]
    assert channels.mean.tolist() == [2.0, 0.0]
    assert channels.max.tolist() == [3.0, -math.inf]


def test_wrong_axes_are_errors():
    with pytest.raises(DataError, match="no channel axis 2"):
        TensorStats.of(np.ones((2, 2), dtype=np.float32), channel_axis=2)
    seen = Accumulator(channel_axis=1)
    seen.add(np.ones((1, 3), dtype=np.float32))
    with pytest.raises(DataError, match="no 3 channels on axis 1"):
        seen.add(np.ones((1, 4), dtype=np.float32))
    a = TensorStats.of(np.ones((1, 3), dtype=np.float32), channel_axis=1)
    b = TensorStats.of(np.ones((1, 3), dtype=np.float32), channel_axis=0)
    with pytest.raises(DataError, match="do not merge"):
        a.merge(b)
    with pytest.raises(DataError, match="with and without channels"):
        a.merge(TensorStats.of(np.ones(3, dtype=np.float32)))
