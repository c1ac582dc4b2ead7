"""Rank correlation: whether a model puts samples in the right order.

With a_i and b_i the ranks of output and reference among all samples, equal ones sharing the mean of their ranks,

    spearman    sum (a - mean a)(b - mean b) / sqrt( sum (a - mean a)^2  sum (b - mean b)^2 )
    kendall     (P - Q) / sqrt( (P + Q + T)(P + Q + U) )                                  tau-b

with P pairs of samples in the same order, Q in the other one, T tied in the output alone, U in the reference alone. Of several
targets, the mean over targets. Where all outputs, or all references, are equal, there is no order, and the value is NaN.

Sources: Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15, 1904;
Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945. Computed by `scipy.stats`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from calibrant.algorithms.options import options
from calibrant.analysis.tasks.corpus import CorpusMetric, of_pairs
from calibrant.analysis.tasks.regression import targets

__all__ = ["Kendall", "Spearman"]


@options
class Spearman:
    """Spearman's rank correlation with the references."""

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return CorpusMetric(name, of_pairs(targets), lambda s: _correlation(s, _spearman))


@options
class Kendall:
    """Kendall's rank correlation (tau-b) with the references."""

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return CorpusMetric(name, of_pairs(targets), lambda s: _correlation(s, _kendall))


def _spearman(a: Any, b: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def _kendall(a: Any, b: Any) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)


def _correlation(samples: Sequence[Any], of_target: Callable[[Any, Any], float]) -> float:
    y, r = (np.array(x).T for x in zip(*samples, strict=True))  # (targets, samples)
    if len(samples) < 2 or any(len(np.unique(x)) < 2 for x in (*y, *r)):
        return math.nan
    return float(np.mean([of_target(a, b) for a, b in zip(y, r, strict=True)]))
