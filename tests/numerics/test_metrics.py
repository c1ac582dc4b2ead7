"""Metrics: their values, their edges, and which of two scores is the better."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given

from calibrant.errors import ConfigValueError, DataError
from calibrant.numerics.metrics import (
    METRICS,
    chebyshev,
    cosine,
    get_metric,
    jsd,
    kl,
    mae,
    mre,
    mse,
    sqnr_db,
    symkl,
    topk_agreement,
)
from tests import strategies

A = np.array([[1.0, -2.0], [0.0, 4.0]])
B = np.array([[1.0, -1.0], [0.5, 4.0]])


def test_values():
    assert mse(A, B) == (1 + 0.25) / 4
    assert mae(A, B) == 1.5 / 4
    assert chebyshev(A, B) == 1
    assert mre(A, B) == pytest.approx((0.5 + 0.5 / 1e-8) / 4)
    assert sqnr_db(A, B) == pytest.approx(10 * math.log10(21 / 1.25))
    assert cosine(A, B) == pytest.approx((1 + 2 + 16) / math.sqrt(21 * 18.25))


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda m: m.name)
@given(strategies.arrays())
def test_equal_arrays_are_perfect_and_nothing_is_better(metric, x):
    score = metric.measure(x, x)
    assert score == pytest.approx(metric.perfect, abs=1e-12)
    assert not metric.better(metric.measure(x, -x), metric.perfect)


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda m: m.name)
def test_what_is_not_finite_is_worst(metric):
    broken = metric.measure([1.0, 2.0], [1.0, math.inf])
    assert math.isnan(broken)
    worst = metric.measure([1.0, 2.0], [-1e9, 1e9])
    assert metric.better(worst, broken)
    assert not metric.better(broken, worst)
    assert not metric.better(broken, broken)
    assert metric.worst_first([metric.perfect, broken, worst]) == [1, 2, 0]


def test_edges_of_cosine_and_sqnr():
    zero, one = np.zeros(3), np.ones(3)
    assert cosine(zero, zero) == 1
    assert cosine(zero, one) == cosine(one, zero) == 0
    assert cosine(1e-200 * one, 1e-200 * one) == pytest.approx(1)
    assert cosine(one, -one) == pytest.approx(-1)
    assert sqnr_db(zero, zero) == math.inf
    assert sqnr_db(zero, one) == -math.inf
    assert METRICS["sqnr"].better(-math.inf, math.nan)


def test_shapes_must_match():
    with pytest.raises(DataError, match=r"\(2, 2\) and \(4,\)"):
        mse(A, B.reshape(-1))
    with pytest.raises(DataError, match="without values"):
        mse([], [])


def test_top_k():
    reference = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    value = np.array([[0.2, 0.3, 0.5], [0.1, 0.2, 0.7]])
    assert [topk_agreement(reference, value, k=k) for k in (1, 2, 3)] == [0, 0.5, 1]
    assert topk_agreement(reference, np.zeros((2, 3))) == 0.5  # ties go to the first class
    for k in (0, 4):
        with pytest.raises(DataError, match=r"lies in \[1, 3\]"):
            topk_agreement(reference, value, k=k)


def test_divergences():
    p, q = [1.0, 3.0], [2.0, 2.0]
    forward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    backward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert kl(p, q) == pytest.approx(forward)
    assert symkl(p, q) == pytest.approx(forward + backward)
    assert jsd([1.0, 0.0], [0.0, 1.0]) == pytest.approx(math.log(2))
    assert kl([1.0, 1.0], [1.0, 0.0]) == math.inf
    assert kl([0.0, 1.0], [1.0, 1.0]) == pytest.approx(math.log(2))
    assert jsd(p, [q, p]).tolist() == pytest.approx([float(jsd(p, q)), 0.0])
    with pytest.raises(DataError, match="without weight"):
        kl([0.0, 0.0], q)


def test_names():
    assert get_metric("mse").measure is mse
    with pytest.raises(ConfigValueError, match="Did you mean 'cosine-similarity'"):
        get_metric("cosine-similarty")
