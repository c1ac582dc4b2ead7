"""What is said early is seldom wrong, and what is said for sure never is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.tuner.certain import Certainty


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_without_a_confidence_answers_are_always_right(
    values: list[float], limit: float, seed: int
) -> None:
    x = np.random.default_rng(seed).permutation(np.array(values))
    found = Certainty(len(x), limit, None).add(x)
    mean = x.sum() / len(x)
    if abs(mean - limit) > 1e-9:
        assert found is bool(mean >= limit)


@pytest.mark.parametrize(
    ("share", "limit"), [(0.5, 0.5 + 1e-3), (0.5, 0.5 - 1e-3), (0.02, 0.021), (0.9, 0.89)]
)
def test_early_answers_are_wrong_as_seldom_as_promised(share: float, limit: float) -> None:
    """The worst case: the mean of all lies just beside the limit, and one may stop at any sample."""
    count, wrong, rounds = 1000, 0, 300
    values = np.zeros(count)
    values[: round(share * count)] = 1
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        found = Certainty(count, limit, 0.9).add(rng.permutation(values))
        wrong += found is not bool(values.mean() >= limit)
    assert wrong / rounds <= 0.1 + 2 * (0.1 * 0.9 / rounds) ** 0.5


@pytest.mark.parametrize(("mean", "answer"), [(0.3, False), (0.7, True)])
def test_what_is_far_from_the_limit_is_known_soon(mean: float, answer: bool) -> None:
    x = (np.random.default_rng(1).random(10_000) < mean).astype(float)
    test = Certainty(len(x), 0.5, 0.99)
    for start in range(0, len(x), 10):
        if test.add(x[start : start + 10]) is not None:
            break
    assert test.answer is answer
    assert test.seen < 500


def test_small_differences_of_pairs_are_seen_early() -> None:
    """Two models that differ on few samples: the variance is small, and the answer comes before the end."""
    rng = np.random.default_rng(2)
    d = np.zeros(10_000)
    d[:300], d[300:350] = -1, 1  # 2.5 points worse
    test = Certainty(len(d), (1 - 0.005) / 2, 0.99)  # 0.5 points are allowed
    x = (1 + rng.permutation(d)) / 2
    for start in range(0, len(x), 50):
        if test.add(x[start : start + 50]) is not None:
            break
    assert test.answer is False
    assert test.seen < 6000
