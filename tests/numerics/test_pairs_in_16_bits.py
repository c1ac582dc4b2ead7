"""Weights whose neighbouring products add up in 16 bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibrant.numerics import QuantParams, QuantSpec, quantize
from calibrant.numerics.pairs import PAIR_LIMIT, fit_pairs, pair_sums

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))


def largest(q: np.ndarray) -> int:
    """The most that two weights of one sign add up to in a channel (in, positions), one pair after another."""
    channel = q.astype(int)
    steps = [[*channel[:, p], *([0] * (len(channel) % 2))] for p in range(channel.shape[1])]
    if len(channel) % 2:  # some kernels pad each position, others go on with the next
        steps.append([*channel.T.reshape(-1), 0])
    found = 0
    for row in steps:
        for a, b in zip(row[0::2], row[1::2], strict=False):
            found = max(found, max(a, 0) + max(b, 0), -min(a, 0) - min(b, 0))
    return found


def test_the_limit_is_the_most_that_no_activation_takes_out_of_16_bits() -> None:
    assert 255 * PAIR_LIMIT <= 2**15 - 1 < 255 * (PAIR_LIMIT + 1)
    assert -255 * PAIR_LIMIT >= -(2**15)


@given(SHAPES.flatmap(lambda shape: arrays(np.int32, shape, elements=st.integers(-128, 127))))
def test_sums_are_those_of_pairs_taken_one_by_one(q: np.ndarray) -> None:
    assert pair_sums(q, 0, 1).tolist() == [largest(channel) for channel in q]


@pytest.mark.parametrize(("axis", "contracted"), [*itertools.permutations(range(3), 2)])
def test_axes_may_stand_anywhere(axis: int, contracted: int) -> None:
    q = np.random.default_rng(0).integers(-128, 128, (4, 6, 3))
    moved = np.moveaxis(q, (0, 1), (axis, contracted))
    assert pair_sums(moved, axis, contracted).tolist() == pair_sums(q, 0, 1).tolist()
    assert pair_sums(moved, None, contracted) == pair_sums(q, 0, 1).max()


@given(
    SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-1, 1, width=32))),
    st.sampled_from([0, None]),
)
def test_no_pair_of_a_fitted_weight_can_saturate(w: np.ndarray, axis: int | None) -> None:
    top = np.abs(w).max(axis=(1, 2)) if axis == 0 else np.abs(w).max()
    spec = QuantSpec(symmetric=True, axis=axis)
    before = QuantParams.from_range(-top, top, spec)
    after = fit_pairs(before, lambda p: quantize(w, p), 1)
    sums = pair_sums(quantize(w, before), axis, 1)
    assert (pair_sums(quantize(w, after), axis, 1) <= PAIR_LIMIT).all()
    assert (after.scale >= before.scale).all()
    assert (after.scale[sums <= PAIR_LIMIT] == before.scale[sums <= PAIR_LIMIT]).all()
    assert (
        after.scale <= 2.02 * before.scale
    ).all()  # at most one bit, and the last step of the search
