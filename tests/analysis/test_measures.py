"""Metrics of a tensor against the truth: worked examples, edges, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.analysis import metrics
from calibrant.analysis.metrics import EPSILON, MEASURES
from calibrant.errors import DataError
from calibrant.numerics.metrics import METRICS
from tests import strategies

X, Y = [1.0, -2.0, 0.5, 3.0], [1.0, -1.0, 0.0, 4.0]

EXAMPLE = {
    "cosine_similarity": (1 + 2 + 12) / math.sqrt(14.25 * 18),
    "max_absolute_error": 1.0,
    "accumulated_relative_error": 0 + 1 + 0.25,
    "relative_euclidean_distance": 1.5 / math.sqrt(18),
    "mean_absolute_error": 2.5 / 4,
    "root_mean_square_error": 0.75,
    "max_relative_error": 1.0,
    "mean_relative_error": 1.25 / 4,
    "mean_floored_relative_error": (0 + 1 + 0.5e8 + 0.25) / 4,
    "mean_square_error": 2.25 / 4,
    "sqnr_db": 10 * math.log10(18 / 2.25),
}


@pytest.mark.parametrize("name", EXAMPLE)
def test_a_worked_example(name: str) -> None:
    assert MEASURES[name].function(X, Y) == pytest.approx(EXAMPLE[name])
    assert getattr(metrics, name)(np.array(X).reshape(2, 2), Y) == pytest.approx(EXAMPLE[name])


def test_divergence_by_hand() -> None:
    p = np.array([3 / 5, EPSILON, 2.5 / 5, 1.0])
    q = np.array([2 / 5, EPSILON, 1 / 5, 1.0])
    p, q = p / p.sum(), q / q.sum()
    wanted = float((p * np.log(p / q)).sum())
    assert metrics.kullback_leibler_divergence(X, Y) == pytest.approx(wanted)


def test_divergence_of_equal_values() -> None:
    divergence = metrics.kullback_leibler_divergence
    assert divergence([2.0, 2.0], [7.0, 7.0]) == 0
    assert divergence([0.0, 0.0], [-3.0, -3.0]) == 0
    uneven = divergence([5.0, 5.0], [0.0, 1.0])
    assert uneven == pytest.approx(math.log(0.5 / EPSILON) / 2 + math.log(0.5) / 2, abs=1e-3)
    assert divergence([0.0, 1.0, 1.0], [0.0, 1.0, 1.0 + 1e-9]) == 0


def test_zeros() -> None:
    zero, one, tiny = np.zeros(3), np.ones(3), np.full(3, EPSILON / 2)
    assert metrics.cosine_similarity(zero, zero) == 1
    assert metrics.cosine_similarity(tiny, zero) == 1
    assert math.isnan(metrics.cosine_similarity(zero, one))
    assert math.isnan(metrics.cosine_similarity(one, zero))
    assert metrics.relative_euclidean_distance(one, zero) == 0
    assert metrics.relative_euclidean_distance(zero, one) == 1
    for name in ("accumulated_relative_error", "max_relative_error", "mean_relative_error"):
        assert MEASURES[name].function(one, zero) == 0
    assert metrics.mean_floored_relative_error(one, zero) == pytest.approx(1e8)
    assert metrics.sqnr_db(zero, zero) == math.inf
    assert metrics.sqnr_db(one, zero) == -math.inf
    assert metrics.sqnr_db(zero, one) == 0


def test_single_values() -> None:
    assert metrics.cosine_similarity(2.0, -3.0) == 1
    assert metrics.cosine_similarity([0.0], [4.0]) == 1
    assert metrics.max_absolute_error(2.0, -3.0) == 5
    assert metrics.kullback_leibler_divergence(2.0, 5.0) == 0


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda m: m.name)
def test_what_cannot_be_computed_is_nan(measure: metrics.Measure) -> None:
    assert math.isnan(measure.function([], []))
    for bad in (math.nan, math.inf, -math.inf):
        assert math.isnan(measure.function([1.0, bad], [1.0, 2.0]))
        assert math.isnan(measure.function([1.0, 2.0], [bad, 2.0]))
    with pytest.raises(DataError, match=r"\(3,\) and \(2,\)"):
        measure.function([1.0, 2.0, 3.0], [1.0, 2.0])
    assert measure.passes(math.nan) is None


def test_why_not() -> None:
    assert metrics.why_not([1, 2], [1, 3]) == ""
    assert "(3,) against (2,)" in metrics.why_not([1, 2, 3], [1, 2])
    assert metrics.why_not([], []) == "There are no values."
    assert "2 of 3 values (mine)" in metrics.why_not([1, math.nan, math.inf], [1, 2, 3])
    assert "1 of 2 values (truth)" in metrics.why_not([1, 2], [math.nan, 2])
    assert "all values are 0 (mine)" in metrics.why_not([0, 0], [1, 2])
    assert "all values are 0 (truth)" in metrics.why_not([1, 2], [0, 0])
    assert metrics.why_not([0, 0], [0, 0]) == metrics.why_not([1], [0]) == ""


def test_the_text_of_means_and_deviations() -> None:
    assert (
        metrics.standard_deviation([1.0, 2.0, 6.0], [0.0, 0.0, 1e-4])
        == "(3.000;2.160),(0.000;0.000)"
    )
    assert metrics.standard_deviation([], []) == "(nan;nan),(nan;nan)"


def test_limits_that_are_published() -> None:
    limits = {m.name: m.limit for m in MEASURES.values() if m.limit is not None}
    assert limits == {
        "cosine_similarity": 0.99,
        "relative_euclidean_distance": 0.05,
        "kullback_leibler_divergence": 0.005,
    }
    cosine, distance = MEASURES["cosine_similarity"], MEASURES["relative_euclidean_distance"]
    assert (cosine.passes(0.995), cosine.passes(0.99), distance.passes(0.04)) == (
        True,
        False,
        True,
    )
    assert MEASURES["sqnr_db"].passes(3.0) is None


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda m: m.name)
@given(strategies.arrays())
def test_equal_tensors_are_perfect(measure: metrics.Measure, x: strategies.FloatArray) -> None:
    assert measure.function(x, x) == pytest.approx(measure.perfect, abs=1e-12)
    assert not measure.ordered.better(measure.function(-x, x), measure.perfect)


@given(strategies.tame_arrays(min_size=2), st.integers(0, 2**32 - 1))
def test_laws(y: strategies.FloatArray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = y + rng.normal(size=y.shape)
    order = rng.permutation(len(y))
    for m in MEASURES.values():
        assert m.function(x[order], y[order]) == pytest.approx(
            m.function(x, y), rel=1e-9, abs=1e-12, nan_ok=True
        )
    assert metrics.mean_absolute_error(x, y) <= metrics.root_mean_square_error(x, y) * (1 + 1e-12)
    assert metrics.root_mean_square_error(x, y) <= metrics.max_absolute_error(x, y) * (1 + 1e-12)
    assert metrics.kullback_leibler_divergence(x, y) >= 0
    assert metrics.mean_relative_error(x, y) <= metrics.max_relative_error(x, y) * (1 + 1e-12)
    if metrics.relative_euclidean_distance(x, y) > 0:
        ratio = -20 * math.log10(metrics.relative_euclidean_distance(x, y))
        assert metrics.sqnr_db(x, y) == pytest.approx(ratio, abs=1e-6)


CASES = [
    (X, Y),
    ([0.0, 0.0], [0.0, 0.0]),
    ([0.0, 0.0], [1.0, 2.0]),
    ([1.0, 2.0], [0.0, 0.0]),
    ([5.0], [-2.0]),
    ([2.0, 2.0], [1.0, 3.0]),
    ([-2.0, -2.0], [-3.0, -3.0]),
    ([EPSILON / 2, 0.0], [1.0, EPSILON / 2]),
    ([3e38, 1.0], [-3e38, 2.0]),
    ([1e-45, 1e-40], [1e-45, 2e-40]),
    ([1.0, math.nan], [1.0, 2.0]),
    ([1.0, 2.0], [1.0, -math.inf]),
    ([], []),
]


@pytest.mark.parametrize(("x", "y"), CASES, ids=str)
def test_all_at_once_at_the_edges(x: list[float], y: list[float]) -> None:
    for name, value in metrics.measure_all(x, y).items():
        wanted = MEASURES[name].function(x, y)
        assert value == pytest.approx(wanted, rel=1e-12, abs=1e-12, nan_ok=True), name


@given(strategies.arrays(min_size=2), strategies.arrays(min_size=2))
def test_all_at_once_is_the_same_as_one_by_one(
    a: strategies.FloatArray, b: strategies.FloatArray
) -> None:
    n = min(len(a), len(b))
    x, y = a[:n], b[:n]
    found = metrics.measure_all(x.reshape(1, n), y)
    assert list(found) == list(MEASURES)
    for name, value in found.items():
        wanted = MEASURES[name].function(x, y)
        assert value == pytest.approx(wanted, rel=1e-6, abs=1e-9, nan_ok=True), name
    with pytest.raises(DataError, match="different numbers"):
        metrics.measure_all(x, y[1:])


@given(strategies.tame_arrays(), strategies.tame_arrays())
def test_the_same_names_mean_the_same_in_searches(
    a: strategies.FloatArray, b: strategies.FloatArray
) -> None:
    n = min(len(a), len(b))
    x, y = a[:n], b[:n]
    for name, of_searches in (
        ("mean_square_error", "mse"),
        ("mean_absolute_error", "mae"),
        ("mean_floored_relative_error", "mre"),
        ("sqnr_db", "sqnr"),
        ("max_absolute_error", "chebyshev"),
    ):
        assert MEASURES[name].function(x, y) == METRICS[of_searches].measure(y, x)
