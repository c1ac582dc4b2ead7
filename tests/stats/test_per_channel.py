"""Distributions by channel: each is that of the channel alone, and they merge as statistics do."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibrant.errors import DataError
from calibrant.stats import Accumulator, ExactValues, Histogram, TensorStats
from calibrant.stats.histogram import BIN_SHIFT
from calibrant.stats.per_channel import channel_shift
from tests import strategies

TENSORS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4)),
    elements=strategies.floats32(),
)


def few(values: int) -> mock._patch[int]:
    """Keep so many values of a tensor as they are."""
    return mock.patch("calibrant.stats.per_channel.FEW_VALUES", values)


@given(TENSORS, st.integers(0, 2), st.booleans())
def test_each_channel_has_the_values_of_that_channel(x, axis, exact):
    make = TensorStats.exact if exact else TensorStats.of
    channels = make(x, by_channel=(axis,)).of_channels(axis)
    rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    assert channels == tuple(make(row) for row in rows)


@given(TENSORS, st.integers(0, 40), st.booleans(), st.data())
def test_the_order_and_the_size_of_batches_leave_no_trace(x, kept, exact, data):
    """Nor does the switch from values to histograms, which comes with the number of values."""
    make = TensorStats.exact if exact else TensorStats.of
    order = data.draw(st.permutations(range(len(x))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=3)))
    parts = np.split(x[np.array(order)], cuts)
    with few(kept):
        whole = make(x, by_channel=(2, 1))
        seen = Accumulator(by_channel=(1, 2), exact=exact)
        merged = make(x[:0], by_channel=(1, 2))
        for part in parts:
            seen.add(part)
            merged = make(part, by_channel=(1, 2)).merge(merged)
        assert seen.result() == whole == merged
    kinds = {type(d) for found in whole.by_channel for d in found.data}
    assert kinds == {ExactValues if exact or x.size <= kept else Histogram}


@given(TENSORS)
def test_histograms_by_channel_keep_extremes_and_counts_and_are_narrow(x):
    with few(0):
        channels = TensorStats.of(x, by_channel=(1,)).of_channels(1)
    for row, stats in zip(np.moveaxis(x, 1, 0).reshape(x.shape[1], -1), channels, strict=True):
        assert stats.data == ExactValues.of(row).histogram(channel_shift(x.shape[1]))
        assert (stats.min, stats.max, stats.count) == (row.min(), row.max(), row.size)


@pytest.mark.parametrize(
    ("channels", "bins"), [(1, 512), (64, 512), (65, 256), (256, 128), (512, 64), (4096, 64)]
)
def test_more_channels_have_coarser_bins(channels, bins):
    shift = channel_shift(channels)
    assert 1 << (23 - shift) == bins
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, channels)).astype(np.float32)
    with few(0):
        found = TensorStats.of(x, by_channel=(1,)).by_channel[0].data
    assert all(isinstance(d, Histogram) and d.shift == shift for d in found)
    lower, upper = found[0].edges()
    wide = (upper - lower) / np.maximum(np.minimum(np.abs(lower), np.abs(upper)), 1e-30)
    assert wide.max() <= 1 / bins * 1.0001
    assert found[0] == ExactValues.of(x[:, 0]).histogram(shift)


def test_memory_does_not_grow_with_the_data():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc here")

    def resident_mb() -> float:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    rng = np.random.default_rng(0)
    batch = rng.normal(size=(8, 512, 14, 14)).astype(np.float32)  # 3.2 MB
    seen = Accumulator(by_channel=(1,))
    before = resident_mb()
    for _ in range(3):
        seen.add(batch)
    few_batches = resident_mb()
    for _ in range(20):  # 64 MB
        seen.add(batch)
    assert few_batches - before < 30
    assert resident_mb() - few_batches < 8


def test_counters_do_not_overflow():
    x = np.tile(np.array([1.0, -2.0], np.float32), (50, 1))
    with few(0), mock.patch("calibrant.stats.per_channel._FULL", 120):
        seen = Accumulator(by_channel=(1,))
        for _ in range(7):
            seen.add(x)
        found = seen.result()
    assert [s.count for s in found.of_channels(1)] == [350, 350]
    assert [s.min for s in found.of_channels(1)] == [1.0, -2.0]


def test_a_mutated_buffer_changes_nothing():
    x = np.ones((2, 3), np.float32)
    seen = Accumulator(by_channel=(1,))
    seen.add(x)
    x[:] = 7
    assert {s.max for s in seen.result().of_channels(1)} == {1.0}


def test_values_that_are_not_finite_are_left_out():
    x = np.array([[1.0, np.nan], [np.inf, 2.0]], np.float32)
    for kept in (0, 100):
        with few(kept):
            channels = TensorStats.of(x, by_channel=(1,)).of_channels(1)
        assert [(s.min, s.max, s.count) for s in channels] == [(1, 1, 1), (2, 2, 1)]


def test_wrong_axes_are_errors():
    a = TensorStats.of(np.ones((2, 3), np.float32), by_channel=(1,))
    with pytest.raises(DataError, match="No distributions were kept for the channels of axis 0"):
        a.of_channels(0)
    with pytest.raises(DataError, match="has no channel axis 1"):
        TensorStats.of(np.ones(4, np.float32), by_channel=(1,))
    with pytest.raises(DataError, match="3 channels on axis 1 and of 4 channels"):
        a.merge(TensorStats.of(np.ones((2, 4), np.float32), by_channel=(1,)))
    with pytest.raises(DataError, match="of different axes do not merge"):
        a.merge(TensorStats.of(np.ones((2, 3), np.float32), by_channel=(0,)))
    with pytest.raises(DataError, match="of different axes do not merge"):
        a.merge(TensorStats.of(np.ones((2, 3), np.float32)))
    seen = Accumulator(by_channel=(1,))
    seen.add(np.ones((2, 3), np.float32))
    with pytest.raises(DataError, match="has no 3 channels on axis 1"):
        seen.add(np.ones((2, 4), np.float32))


def test_bins_of_different_width_do_not_merge():
    values = ExactValues.of(np.array([1.0, 2.0], np.float32))
    with pytest.raises(DataError, match="different width"):
        values.histogram().merge(values.histogram(BIN_SHIFT + 1))
