"""Distances between a reference and a value, and between two distributions. numpy only.

Arrays of one shape are flattened and summed in float64. NaN or Inf in either makes the result NaN, which
`Metric.better` takes for the worst there is; nothing is dropped in silence.

Source: docs/explanation/decisions.md, "Metrics by name"; docs/explanation/algorithms/kl.md (divergences).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.errors import ConfigValueError, DataError, did_you_mean

__all__ = [
    "METRICS",
    "Metric",
    "chebyshev",
    "cosine",
    "get_metric",
    "jsd",
    "kl",
    "mae",
    "mre",
    "mse",
    "sqnr_db",
    "symkl",
    "topk_agreement",
]

SMALLEST = 1e-8  # reference magnitude that a relative error is taken against, at least


def cosine(reference: npt.ArrayLike, value: npt.ArrayLike) -> float:
    """Return the cosine of the angle between two arrays; 1 where both are zero, 0 where one is."""
    a, b = _pair(reference, value)
    # Scaled by the largest magnitude, so that squares neither overflow nor vanish.
    a, b = a / (np.abs(a).max(initial=0) or 1), b / (np.abs(b).max(initial=0) or 1)
    norms = math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b))
    if norms == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(np.clip(_dot(a, b) / norms, -1.0, 1.0))


def mse(reference: npt.ArrayLike, value: npt.ArrayLike) -> float:
    """Return the mean squared error, in units of the reference squared."""
    return float(np.mean(_difference(reference, value) ** 2))


def mae(reference: npt.ArrayLike, value: npt.ArrayLike) -> float:
    """Return the mean absolute error, in units of the reference."""
    return float(np.mean(np.abs(_difference(reference, value))))


def mre(reference: npt.ArrayLike, value: npt.ArrayLike) -> float:
    """Return the mean relative error: mean of |a - b| / max(|a|, 1e-8)."""
    a, b = _pair(reference, value)
    return float(np.mean(np.abs(a - b) / np.maximum(np.abs(a), SMALLEST)))


def sqnr_db(reference: npt.ArrayLike, value: npt.ArrayLike) -> float:
    """Measure how far `value` is from `reference`, as a signal to noise ratio.

        sqnr = 10 log10( sum reference**2 / sum (reference - value)**2 )      [dB]

    Equal arrays give `inf`; an all-zero reference that is not matched gives `-inf`.

    Example:
        >>> round(sqnr_db([1.0, 1.0], [1.0, 0.9]), 2)
        23.01
    """
    a, b = _pair(reference, value)
    signal, noise = _dot(a, a), _dot(a - b, a - b)
    if math.isnan(noise) or math.isnan(signal):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def chebyshev(reference: npt.ArrayLike, value: npt.ArrayLike) -> float:
    """Return the largest absolute error, in units of the reference."""
    return float(np.abs(_difference(reference, value)).max())


def topk_agreement(reference: npt.ArrayLike, value: npt.ArrayLike, *, k: int = 1) -> float:
    """Return the share of samples whose best class of the reference is among the k best of the value.

    Args:
        reference: Scores (…, classes).
        value: Scores of the same shape.
        k: How many of the value's best classes count. Of equal scores the first class is the better.

    Raises:
        DataError: The shapes differ, there is no class axis, or k is not in [1, classes].

    Example:
        >>> topk_agreement([[0.1, 0.9], [0.8, 0.2]], [[0.4, 0.6], [0.3, 0.7]])
        0.5
    """
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if a.shape != b.shape or a.ndim == 0 or a.size == 0:
        raise DataError(f"Scores of shape {a.shape} and {b.shape} cannot be compared by class.")
    if not 1 <= k <= a.shape[-1]:
        raise DataError(f"k is {k}; with {a.shape[-1]} classes it lies in [1, {a.shape[-1]}].")
    best = a.argmax(axis=-1)[..., None]
    ranked = np.argsort(-b, axis=-1, kind="stable")[..., :k]
    return float(np.mean((ranked == best).any(axis=-1)))


# ----------------------------------------------------------------------------------------- divergences


def kl(p: npt.ArrayLike, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the Kullback-Leibler divergence sum p ln(p / q) along the last axis, in nats.

    Args:
        p: Weights (…, bins), not negative; divided by their sum.
        q: Weights that broadcast with p. Where q is 0 and p is not, the result is inf.
    """
    a, b = _normalised(p), _normalised(q)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(a > 0, a * np.log(a / b), 0.0)
    return np.asarray(terms.sum(axis=-1))


def symkl(p: npt.ArrayLike, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return kl(p, q) + kl(q, p); arguments as for `kl`."""
    return kl(p, q) + kl(q, p)


def jsd(p: npt.ArrayLike, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the Jensen-Shannon divergence, in [0, ln 2]; arguments as for `kl`."""
    a, b = _normalised(p), _normalised(q)
    middle = (a + b) / 2
    return (kl(a, middle) + kl(b, middle)) / 2


# --------------------------------------------------------------------------------------------- by name


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with its direction.

    Args:
        name: As recipes and reports call it.
        measure: (reference, value) -> number.
        higher_is_better: Its direction.
        perfect: What equal arrays give.
    """

    name: str
    measure: Callable[[npt.ArrayLike, npt.ArrayLike], float]
    higher_is_better: bool
    perfect: float

    def badness(self, score: float) -> float:
        """Return a number that grows as the score gets worse; NaN is worst."""
        if math.isnan(score):
            return math.inf
        return -score if self.higher_is_better else score

    def better(self, score: float, than: float) -> bool:
        """Whether one score is strictly better than another."""
        if math.isnan(than):
            return not math.isnan(score)
        return self.badness(score) < self.badness(than)

    def worst_first(self, scores: Iterable[float]) -> list[int]:
        """Return the indices of scores from worst to best; NaN first, equal ones in their order."""
        scores = list(scores)
        return sorted(
            range(len(scores)), key=lambda i: (not math.isnan(scores[i]), -self.badness(scores[i]))
        )


METRICS = {
    m.name: m
    for m in (
        Metric("cosine-similarity", cosine, True, 1.0),
        Metric("mse", mse, False, 0.0),
        Metric("mae", mae, False, 0.0),
        Metric("mre", mre, False, 0.0),
        Metric("sqnr", sqnr_db, True, math.inf),
        Metric("chebyshev", chebyshev, False, 0.0),
    )
}


def get_metric(name: str) -> Metric:
    """Return a metric by name.

    Raises:
        ConfigValueError: An unknown name.
    """
    if name not in METRICS:
        raise ConfigValueError(
            f"Unknown metric '{name}'. Known: {', '.join(METRICS)}." + did_you_mean(name, METRICS)
        )
    return METRICS[name]


def _pair(
    reference: npt.ArrayLike, value: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if a.shape != b.shape:
        raise DataError(f"Arrays of shape {a.shape} and {b.shape} cannot be compared.")
    if not a.size:
        raise DataError("Arrays without values cannot be compared.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):  # Inf - Inf is NaN, said once here
        return np.full(1, np.nan), np.full(1, np.nan)
    return a.reshape(-1), b.reshape(-1)


def _difference(reference: npt.ArrayLike, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    a, b = _pair(reference, value)
    return a - b


def _dot(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Sum products with numpy, whose result does not depend on the number of threads as BLAS's does."""
    return float((a * b).sum())


def _normalised(weights: npt.ArrayLike) -> npt.NDArray[np.float64]:
    w = np.asarray(weights, dtype=np.float64)
    total = w.sum(axis=-1, keepdims=True)
    if w.shape[-1] == 0 or not (total > 0).all():
        raise DataError("A distribution without weight has no divergence.")
    return np.asarray(w / total)
