"""Regression: how far numbers are from those they should be.

    rmse    sqrt( mean (y - r)^2 ) over all numbers                                       [units of the output]
    r2      1 - sum (y - r)^2 / sum (r - mean r)^2, of each target over the samples; the mean over targets

Source: Draper, Smith, "Applied Regression Analysis", 3rd edition, 1998, section 1.3 (R^2, the coefficient of determination).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.algorithms.options import options
from calibrant.analysis.tasks.corpus import CorpusMetric, of_pairs
from calibrant.data.batch import AnyArray
from calibrant.errors import DataError

__all__ = ["R2", "Rmse", "numbers_and_references", "targets"]

Floats = npt.NDArray[np.float64]


@options
class Rmse:
    """Root of the mean squared difference to the references."""

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return CorpusMetric(name, of_pairs(_squares), _root, higher_is_better=False)


@options
class R2:
    """Coefficient of determination, the mean over targets."""

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return CorpusMetric(name, of_pairs(targets), _determination)


def numbers_and_references(y: AnyArray, r: AnyArray) -> tuple[Floats, Floats]:
    """Return outputs and references as numbers of one shape.

    Raises:
        DataError: They differ in more than dimensions of 1, or references are no numbers.
    """
    if r.dtype.kind not in "iufb":
        raise DataError(f"the reference is {r.dtype}, not numbers.")
    if y.size != r.size or len(y) != len(r):
        raise DataError(f"shapes {y.shape} and {r.shape} differ.")
    return y.astype(np.float64), r.reshape(y.shape).astype(np.float64)


def targets(y: AnyArray, r: AnyArray) -> list[tuple[Floats, Floats]]:
    """Return (output, reference) of each sample, each (targets,).

    Raises:
        DataError: Outputs are not (samples, targets), but for dimensions of 1.
    """
    y, r = numbers_and_references(y, r)
    kept = tuple(d for d in y.shape[1:] if d != 1)
    if len(kept) > 1:
        raise DataError(
            f"the output has shape {y.shape}; it is (samples,) or (samples, targets), one number for each target of a sample."
        )
    return list(zip(y.reshape(len(y), -1), r.reshape(len(r), -1), strict=True))


def _squares(y: AnyArray, r: AnyArray) -> list[tuple[float, int]]:
    y, r = numbers_and_references(y, r)
    squares = ((y - r) ** 2).reshape(len(y), -1)
    return [(float(s.sum()), s.size) for s in squares]


def _root(samples: Sequence[tuple[float, int]]) -> float:
    total, count = sum(s for s, _ in samples), sum(n for _, n in samples)
    return math.sqrt(total / count)


def _determination(samples: Sequence[Any]) -> float:
    y, r = (np.array(x) for x in zip(*samples, strict=True))  # (samples, targets)
    spread = ((r - r.mean(axis=0)) ** 2).sum(axis=0)
    if (spread == 0).any():
        return math.nan
    return float((1 - ((y - r) ** 2).sum(axis=0) / spread).mean())
