"""What algorithms ask of statistics: order statistics, quantiles, and moments below a threshold.

A distribution is a row of bins with a count each, the values of a bin spread evenly over it. Raw values
are bins of no width, so one code serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.errors import ConfigValueError, DataError
from calibrant.numerics import QuantSpec
from calibrant.stats import TensorStats

__all__ = ["Distribution", "check", "distribution", "magnitudes", "percentile_rank"]

FloatArray = npt.NDArray[np.float64]

_STEEP = 1e300  # 1 / width of a bin of no width: a threshold is below it or above it


def check(stats: TensorStats, spec: QuantSpec) -> None:
    """Refuse statistics that no range can be chosen from.

    Raises:
        ConfigValueError: The spec asks for a scale for each channel; statistics are of a whole tensor.
        DataError: There are no values, or some are NaN or infinite.
    """
    if spec.axis is not None:
        raise ConfigValueError(
            f"An activation is to have a scale for each index of axis {spec.axis}; its statistics are "
            "of the whole tensor (axis None)."
        )
    if stats.nonfinite:
        raise DataError(f"The activation holds NaN or Inf ({stats.nonfinite} values).")
    if not stats.count:
        raise DataError("The activation has no values: no calibration data was seen.")


def percentile_rank(n: int, percentile: float) -> int:
    """Return which largest value is the maximum for a percentile: 1 is the largest itself.

    Source: ascend.md 3.2, in float64 and truncated as written there.
    """
    if 1.0 - percentile < 1.192092896e-07:
        return 1
    return n - int(percentile * n)


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """Bins in ascending order, with their sums up to each.

    Args:
        lower: (bins,) lower ends, in units of x.
        upper: (bins,) upper ends.
        counts: (bins,) values in each, int64.
        count_below: (bins + 1,) values below each bin; the last is all of them.
        sum_below: (bins + 1,) sum of the values below each bin.
    """

    lower: FloatArray
    upper: FloatArray
    counts: npt.NDArray[np.int64]
    count_below: FloatArray
    sum_below: FloatArray

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.count_below[-1])

    @property
    def sum_squares(self) -> float:
        """Sum of x**2 over all values."""
        a, b = self.lower, self.upper
        return float(
            (self.counts * ((a * a + a * b + b * b) / 3)).sum()
        )  # numpy's sum, not BLAS: the
        # result does not depend on the number of threads

    def below(self, threshold: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return how many values lie below each threshold, and their sum.

        Args:
            threshold: Any shape, in units of x; may be infinite.

        Returns:
            Two arrays of that shape; a bin that a threshold cuts counts in proportion.
        """
        i = np.searchsorted(self.upper, threshold).clip(0, self.upper.size - 1)
        a, b = self.lower[i], self.upper[i]
        with np.errstate(divide="ignore", over="ignore"):
            slope = np.minimum(1 / (b - a), _STEEP)
            part = ((threshold - a) * slope).clip(0, 1)
        counts = part * self.counts[i]
        sums = counts * ((a + np.minimum(np.maximum(threshold, a), b)) / 2)
        return self.count_below[i] + counts, self.sum_below[i] + sums

    def order_statistic(self, rank: int) -> float:
        """Return the value of a rank, 0 for the lowest; the ends are exact."""
        if rank <= 0:
            return float(self.lower[0])
        if rank >= self.count - 1:
            return float(self.upper[-1])
        i = int(np.searchsorted(self.count_below, rank, side="right")) - 1
        part = (rank + 0.5 - self.count_below[i]) / self.counts[i]
        return float(self.lower[i] + part * (self.upper[i] - self.lower[i]))

    def quantile(self, q: float) -> float:
        """Return the value that a share `q` lies below; linear between two ranks, as numpy's."""
        position = q * (self.count - 1)
        rank = int(position)
        low = self.order_statistic(rank)
        return low + (position - rank) * (self.order_statistic(rank + 1) - low)

    def folded(self) -> Distribution:
        """Return the distribution of abs(x)."""
        negative = self.upper <= 0  # no bin has values of both signs
        lower = np.where(negative, -self.upper, self.lower) + 0.0
        upper = np.where(negative, -self.lower, self.upper) + 0.0
        order = np.argsort(lower + upper, kind="stable")
        return _sums(lower[order], upper[order], self.counts[order])


def distribution(stats: TensorStats) -> Distribution:
    """Return the distribution of the values seen, which `check` has passed."""
    return stats.derived("distribution", _distribution)


def magnitudes(stats: TensorStats) -> Distribution:
    """Return the distribution of their magnitudes."""
    return stats.derived("magnitudes", lambda s: distribution(s).folded())


def _distribution(stats: TensorStats) -> Distribution:
    _, counts = stats.points()
    return _sums(*stats.edges(), counts)


def _sums(lower: FloatArray, upper: FloatArray, counts: npt.NDArray[np.int64]) -> Distribution:
    count_below = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    sum_below = np.concatenate([[0.0], np.cumsum(counts * ((lower + upper) / 2))])
    return Distribution(lower, upper, counts, count_below, sum_below)
