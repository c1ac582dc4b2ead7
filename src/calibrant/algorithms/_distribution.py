"""What algorithms ask of statistics: order statistics, quantiles, and moments below a threshold.

A distribution is a row of bins with a count each, the values of a bin spread evenly over it. Raw values
are bins of no width, so one code serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import numpy.typing as npt

from calibrant.errors import ConfigValueError, DataError
from calibrant.numerics import QuantSpec
from calibrant.stats import TensorStats

__all__ = [
    "Distribution",
    "check",
    "distribution",
    "kernels",
    "least_error",
    "magnitudes",
    "percentile_rank",
]

FloatArray = npt.NDArray[np.float64]


@cache
def kernels() -> ModuleType:
    """Import the compiled loops, on first use because numba takes a second."""
    from calibrant.algorithms import _kernels as module

    return module


@cache
def least_error() -> ModuleType:
    """Import the compiled search for the least squared error, likewise."""
    from calibrant.algorithms import _least_error as module

    return module


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

    Source: docs/explanation/algorithms/ifmr.md, in float64 and truncated as written there.
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
        square_below: (bins + 1,) sum of the squares of the values below each bin.
    """

    lower: FloatArray
    upper: FloatArray
    counts: npt.NDArray[np.int64]
    count_below: FloatArray
    sum_below: FloatArray
    square_below: FloatArray

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.count_below[-1])

    @property
    def bins(self) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
        """Lower and upper ends, and counts, as the compiled loops take them."""
        return self.lower, self.upper, self.counts

    @property
    def sums(self) -> tuple[FloatArray, FloatArray]:
        """Counts and sums below each bin, as the compiled loops take them."""
        return self.count_below, self.sum_below

    def below(self, threshold: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return how many values lie below each threshold, and their sum.

        Args:
            threshold: Any shape, in units of x; may be infinite.

        Returns:
            Two arrays of that shape; a bin that a threshold cuts counts in proportion.
        """
        flat = np.ascontiguousarray(threshold, dtype=np.float64).reshape(-1)
        count, total = np.empty(flat.size), np.empty(flat.size)
        kernels().below(*self.bins, *self.sums, flat, count, total)
        return count.reshape(threshold.shape), total.reshape(threshold.shape)

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
        if self.lower[0] >= 0:
            return self
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
    return _sums(*stats.edges(), stats.data.counts.astype(np.int64))


def _sums(lower: FloatArray, upper: FloatArray, counts: npt.NDArray[np.int64]) -> Distribution:
    sums = np.empty((3, counts.size + 1))
    kernels().running_sums(lower, upper, counts, *sums)
    return Distribution(lower, upper, counts, *sums)
