"""Word and character error rate, against the recursive definition of the edit distance."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.analysis.tasks.edits import distance
from calibrant.analysis.tasks.registry import task_metric

Array = np.ndarray[Any, Any]


def rate(name: str, y: Array, labels: Array) -> float:
    metric = task_metric(name)
    assert isinstance(metric, CorpusMetric)
    return metric.value(metric.of_samples({"y": y}, {"labels": labels}, "here"))


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_distance_equals_the_definition(a: str, b: str) -> None:
    @cache
    def expected(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        change = expected(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(expected(i - 1, j) + 1, expected(i, j - 1) + 1, change)

    assert distance(a, b) == expected(len(a), len(b))


def test_long_texts_count_more() -> None:
    found = np.array([[1, 2, 3, -1], [5, -1, -1, -1]])
    right = np.array([[1, 2, 4, 4], [6, -1, -1, -1]])
    assert rate("cer", found, right) == pytest.approx((2 + 1) / (4 + 1))


def test_words_stand_between_separators() -> None:
    found = np.array([[1, 2, 0, 3, 0, 0, 4, -1]])
    right = np.array([[1, 2, 0, 3, 3, 0, 4, 4]])
    assert rate("wer,space=0", found, right) == pytest.approx(2 / 3)
    assert rate("wer", found, right) == rate("cer", found, right)


@pytest.mark.parametrize(("name", "blank"), [("cer", 0), ("cer,blank=3", 3), ("cer,blank=-1", 4)])
def test_scores_are_read_greedily(name: str, blank: int) -> None:
    one, two = [t for t in (1, 2, 3) if t != blank][:2]
    steps = [one, one, blank, one, two, two, blank]
    scores = np.eye(5, dtype=np.float32)[None, steps]
    assert rate(name, scores, np.array([[one, one, two]])) == 0
    assert rate(name, scores, np.array([[one, two, two]])) == pytest.approx(1 / 3)
