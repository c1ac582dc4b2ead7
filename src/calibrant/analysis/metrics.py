"""Distances between a tensor and the one it should be: pure functions `NAME(mine, truth)`.

Both are flattened and computed in float64; x is a value of `mine`, y the one of `truth`, and eps = 2**-23 the step of
float32 at 1, below which a value counts as 0.

| function | formula | best |
|---|---|---|
| `cosine_similarity` | sum x y / (norm x * norm y) | 1 |
| `max_absolute_error` | max abs(x - y) | 0 |
| `mean_absolute_error` | mean abs(x - y) | 0 |
| `mean_square_error` | mean (x - y)**2 | 0 |
| `root_mean_square_error` | sqrt(mean (x - y)**2) | 0 |
| `relative_euclidean_distance` | norm(x - y) / norm y; 0 where norm y is 0 | 0 |
| `accumulated_relative_error` | sum of abs(x / y - 1) where y is not 0 | 0 |
| `max_relative_error` | max of abs(x / y - 1) where y is not 0 | 0 |
| `mean_relative_error` | mean over all values of abs(x / y - 1), 0 where y is 0 | 0 |
| `mean_floored_relative_error` | mean abs(x - y) / max(abs y, 1e-8) | 0 |
| `kullback_leibler_divergence` | sum p ln(p / q), p and q from the values scaled to [0, 1] | 0 |
| `sqnr_db` | 10 log10(sum y**2 / sum (x - y)**2) | inf |
| `standard_deviation` | a text: means and standard deviations of both | |

Where there is nothing to compute, the answer is NaN: no values, values that are not finite, and for the cosine exactly one
of two that is 0 throughout. `why_not` says it in words. Two that have different numbers of values are refused.

Source: the columns of the Model Accuracy Analyzer in the public documentation of Ascend CANN, and the metrics of the
debugging tools in the public documentation of Horizon's OpenExplorer (`mse`, `mae`, `mre`, `sqnr`, `chebyshev` there).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.errors import DataError
from calibrant.numerics import metrics as numbers
from calibrant.numerics.metrics import Metric

__all__ = [
    "EPSILON",
    "MEASURES",
    "Measure",
    "accumulated_relative_error",
    "cosine_similarity",
    "kullback_leibler_divergence",
    "max_absolute_error",
    "max_relative_error",
    "mean_absolute_error",
    "mean_floored_relative_error",
    "mean_relative_error",
    "mean_square_error",
    "measure_all",
    "relative_euclidean_distance",
    "root_mean_square_error",
    "sqnr_db",
    "standard_deviation",
    "why_not",
]

Floats = npt.NDArray[np.float64]
Function = Callable[[npt.ArrayLike, npt.ArrayLike], float]

#: Values and norms up to this count as 0: the step of float32 at 1.
EPSILON = float(np.finfo(np.float32).eps)


def cosine_similarity(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the cosine of the angle between two tensors, in [-1, 1].

    1 for single values, and where both norms are 0 (up to eps); NaN where exactly one is.

    Example:
        >>> cosine_similarity([3.0, 4.0], [4.0, 3.0])
        0.96
    """
    x, y = _pair(mine, truth)
    if not _is_known(x, y):
        return math.nan
    zeros = _zeros(x, y)
    if len(x) == 1 or all(zeros):
        return 1.0
    return math.nan if any(zeros) else numbers.cosine(y, x)


def max_absolute_error(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the largest absolute difference, in units of the tensors."""
    return _known(numbers.chebyshev, mine, truth)


def mean_absolute_error(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the mean absolute difference, in units of the tensors."""
    return _known(numbers.mae, mine, truth)


def mean_square_error(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the mean squared difference, in units of the tensors squared."""
    return _known(numbers.mse, mine, truth)


def root_mean_square_error(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the root of the mean squared difference, in units of the tensors."""
    return math.sqrt(mean_square_error(mine, truth))


def relative_euclidean_distance(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the norm of the difference over the norm of the truth; 0 where the truth is 0.

    Example:
        >>> relative_euclidean_distance([3.0, 5.0], [3.0, 4.0])
        0.2
    """
    x, y = _pair(mine, truth)
    if not _is_known(x, y):
        return math.nan
    norm = _norm(y)
    return _norm(x - y) / norm if norm > EPSILON else 0.0


def accumulated_relative_error(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the sum of abs(x / y - 1) over the values whose truth is not 0."""
    return _relative(mine, truth, np.sum)


def max_relative_error(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the largest abs(x / y - 1) of the values whose truth is not 0; 0 where there is none."""
    return _relative(mine, truth, np.max)


def mean_relative_error(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the mean of abs(x / y - 1) over all values, those whose truth is 0 taken as 0."""
    return _relative(mine, truth, np.mean)


def mean_floored_relative_error(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the mean of abs(x - y) / max(abs y, 1e-8): where the truth is 0, any error is large."""
    return _known(numbers.mre, mine, truth)


def kullback_leibler_divergence(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return how far the values of two tensors are from each other as distributions, in nats.

    Each tensor is scaled to [0, 1] by its least and largest value (one of equal values is left as it is), raised to eps
    where it is below, and divided by its sum: p from `mine`, q from `truth`. The result is sum p ln(p / q); below eps it
    is 0.
    """
    x, y = _pair(mine, truth)
    if not _is_known(x, y):
        return math.nan
    found = float(numbers.kl(_spread(x), _spread(y)))
    return found if abs(found) >= EPSILON else 0.0


def sqnr_db(mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return 10 log10(sum y**2 / sum (x - y)**2) [dB]; inf where equal, -inf where the truth alone is 0.

    Example:
        >>> round(sqnr_db([1.0, 0.9], [1.0, 1.0]), 2)
        23.01
    """
    return _known(numbers.sqnr_db, mine, truth)


def standard_deviation(mine: npt.ArrayLike, truth: npt.ArrayLike) -> str:
    """Return means and standard deviations of both as a text; the divisor is the number of values.

    Example:
        >>> standard_deviation([1.0, 3.0], [2.0, 2.0])
        '(2.000;1.000),(2.000;0.000)'
    """
    x, y = _pair(mine, truth)
    if not len(x):
        return "(nan;nan),(nan;nan)"
    with np.errstate(invalid="ignore"):
        texts = [f"({v.mean():.3f};{v.std():.3f})" for v in (x, y)]
    return ",".join(texts)


def why_not(mine: npt.ArrayLike, truth: npt.ArrayLike) -> str:
    """Return why two tensors cannot be compared, or not by all metrics; nothing where they can."""
    x, y = (np.asarray(v) for v in (mine, truth))
    if x.size != y.size:
        return f"Different numbers of values: shape {x.shape} against {y.shape}."
    if not x.size:
        return "There are no values."
    a, b = _pair(x, y)
    for who, v in (("mine", a), ("truth", b)):
        if count := int((~np.isfinite(v)).sum()):
            return f"Not finite: {count} of {v.size} values ({who})."
    zeros = _zeros(a, b)
    if len(a) > 1 and zeros[0] != zeros[1]:
        return f"No cosine similarity: all values are 0 ({'mine' if zeros[0] else 'truth'})."
    return ""


# ------------------------------------------------------------------------------------------------- by name


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as reports have it.

    Args:
        column: Its name in tables.
        function: (mine, truth) -> number.
        higher_is_better: Its direction.
        perfect: What equal tensors give.
        limit: What a good layer reaches at least, or stays below; None where no public source names a limit.
    """

    column: str
    function: Function
    higher_is_better: bool = False
    perfect: float = 0.0
    limit: float | None = None

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    @property
    def ordered(self) -> Metric:
        """The same as searches know it: how scores are ordered."""
        return Metric(
            self.name, lambda y, x: self.function(x, y), self.higher_is_better, self.perfect
        )

    def passes(self, value: float) -> bool | None:
        """Whether a value is on the good side of the limit; None without one, or where the value is NaN."""
        if self.limit is None or math.isnan(value):
            return None
        return value > self.limit if self.higher_is_better else value < self.limit


#: All metrics that are numbers, by name. The limits are those that the documentation of Ascend's analyzer gives.
MEASURES = {
    m.name: m
    for m in (
        Measure("CosineSimilarity", cosine_similarity, True, 1.0, 0.99),
        Measure("MaxAbsoluteError", max_absolute_error),
        Measure("AccumulatedRelativeError", accumulated_relative_error),
        Measure("RelativeEuclideanDistance", relative_euclidean_distance, limit=0.05),
        Measure("KullbackLeiblerDivergence", kullback_leibler_divergence, limit=0.005),
        Measure("MeanAbsoluteError", mean_absolute_error),
        Measure("RootMeanSquareError", root_mean_square_error),
        Measure("MaxRelativeError", max_relative_error),
        Measure("MeanRelativeError", mean_relative_error),
        Measure("MeanFlooredRelativeError", mean_floored_relative_error),
        Measure("MeanSquareError", mean_square_error),
        Measure("SqnrDb", sqnr_db, True, math.inf),
    )
}


def measure_all(mine: npt.ArrayLike, truth: npt.ArrayLike) -> dict[str, float]:
    """Return all metrics of `MEASURES` by name, from two passes over the values.

    They are those of the functions above, up to the order in which values are summed.

    Raises:
        DataError: The two have different numbers of values.
    """
    x, y = (np.asarray(v) for v in (mine, truth))
    if x.size != y.size:
        _pair(x, y)
    x, y = (
        np.ascontiguousarray(v if v.dtype == np.float32 else v.astype(np.float64)).reshape(-1)
        for v in (x, y)
    )
    if not x.size:
        return dict.fromkeys(MEASURES, math.nan)
    from calibrant.numerics import pair_sums as kernels  # numba takes a second

    s = dict(
        zip(kernels.SUMS, kernels.pair_sums(x, y, EPSILON, numbers.SMALLEST).tolist(), strict=True)
    )
    if s["not_finite"]:
        return dict.fromkeys(MEASURES, math.nan)
    return _from_sums(s, x, y, kernels.divergence_sums)


def _from_sums(
    s: Mapping[str, float], x: Floats, y: Floats, divergence: Callable[..., tuple[float, ...]]
) -> dict[str, float]:
    n = len(x)
    norm_x, norm_y, error = math.sqrt(s["xx"]), math.sqrt(s["yy"]), math.sqrt(s["error"])
    zeros = norm_x <= EPSILON, norm_y <= EPSILON
    cosine = 1.0 if n == 1 or all(zeros) else math.nan
    if n > 1 and not any(zeros):
        cosine = min(1.0, max(-1.0, s["xy"] / (norm_x * norm_y)))
    ranges = (s["least_x"], s["most_x"] - s["least_x"], s["least_y"], s["most_y"] - s["least_y"])
    total_p, total_q, total = divergence(x, y, ranges, EPSILON)
    apart = total / total_p + math.log(total_q / total_p)
    sqnr = math.inf
    if s["error"]:
        sqnr = 10 * math.log10(s["yy"] / s["error"]) if s["yy"] else -math.inf
    return {
        "cosine_similarity": cosine,
        "max_absolute_error": s["largest"],
        "accumulated_relative_error": s["relative"],
        "relative_euclidean_distance": error / norm_y if norm_y > EPSILON else 0.0,
        "kullback_leibler_divergence": apart if abs(apart) >= EPSILON else 0.0,
        "mean_absolute_error": s["absolute"] / n,
        "root_mean_square_error": error / math.sqrt(n),
        "max_relative_error": s["largest_relative"],
        "mean_relative_error": s["relative"] / n,
        "mean_floored_relative_error": s["floored"] / n,
        "mean_square_error": s["error"] / n,
        "sqnr_db": sqnr,
    }


# ------------------------------------------------------------------------------------------------- helpers


def _pair(mine: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Floats, Floats]:
    x, y = (np.asarray(v, dtype=np.float64) for v in (mine, truth))
    if x.size != y.size:
        raise DataError(
            f"Tensors of shape {x.shape} and {y.shape} have different numbers of values."
        )
    return x.reshape(-1), y.reshape(-1)


def _is_known(x: Floats, y: Floats) -> bool:
    return bool(len(x) and np.isfinite(x).all() and np.isfinite(y).all())


def _known(function: Function, mine: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Call a metric of searches, which takes the truth first and refuses tensors without values."""
    x, y = _pair(mine, truth)
    return function(y, x) if len(x) else math.nan


def _norm(x: Floats) -> float:
    largest = float(np.abs(x).max(initial=0.0))
    if largest == 0:
        return 0.0
    scaled = x / largest  # so that squares neither overflow nor vanish
    return largest * math.sqrt(float((scaled * scaled).sum()))


def _zeros(x: Floats, y: Floats) -> tuple[bool, bool]:
    return _norm(x) <= EPSILON, _norm(y) <= EPSILON


def _relative(
    mine: npt.ArrayLike, truth: npt.ArrayLike, take: Callable[[Floats], np.float64]
) -> float:
    x, y = _pair(mine, truth)
    if not _is_known(x, y):
        return math.nan
    there = np.abs(y) > EPSILON
    return float(take(np.where(there, np.abs(x / np.where(there, y, 1.0) - 1), 0.0)))


def _spread(x: Floats) -> Floats:
    """Scale to [0, 1], no value below eps."""
    low, high = float(x.min()), float(x.max())
    scaled = x / 2 - low / 2  # halves, so that the difference of extremes does not overflow
    return np.maximum(scaled / (high / 2 - low / 2) if high > low else x, EPSILON)
