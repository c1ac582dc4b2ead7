"""IFMR: scan the upper end of the range for the least squared error.

    max0, min0 = the k-th largest and smallest value, or 0 where that is wider        (percentiles)
    c(r)       = r * max0          asymmetric; min0 stays                              r = start, start + step, …
               = r * max(max0, -min0), and -c(r) below it; symmetric
    s(r)       = (c(r) - min0) / (2**bits - 1), or c(r) / levels
    loss(r)    = mean (x - round(clip(x, low, c) / s) * s)**2

and the first r of least loss wins. On raw values every element is computed in float32, as the
specification says, and squares and mean in float64, so that the order of the values does not matter.

Source: docs/explanation/algorithms/ifmr.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check, distribution, percentile_rank
from calibrant.algorithms._loss import squared_errors
from calibrant.algorithms._search import check_ratios, ratios, times
from calibrant.algorithms.options import Percent, Positive, options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.params import step_of, usable_scale
from calibrant.stats import TensorStats

FloatArray = npt.NDArray[np.float32]

_CHUNK = 1 << 15  # values that stay in cache while all candidates pass over them


@register_activation("ifmr")
@options
class Ifmr:
    """Search the upper end of the range that loses the least squared error.

    Args:
        search_range: First and last ratio of the initial bound to try.
        search_step: Distance between two ratios.
        max_percentile: Share of the values below the initial upper bound.
        min_percentile: Share of the values above the initial lower bound.
    """

    search_range: tuple[Positive, Positive] = (0.7, 1.3)
    search_step: Positive = 0.01
    max_percentile: Percent = 0.999999
    min_percentile: Percent = 0.999999

    def __post_init__(self) -> None:
        """Check the fields together."""
        check_ratios(*self.search_range, self.search_step)

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters of the best ratio."""
        check(stats, spec)
        max0, min0 = self._initial(stats)
        r = ratios(*self.search_range, self.search_step)  # (candidates,) float32
        dtype = spec.dtype
        if spec.symmetric:
            negative = abs(max0) < abs(min0) and not spec.narrow
            top = times(r, max(abs(max0), abs(min0)))
            bottom = -top
            scale = top / np.float32(dtype.qmax + negative)
        else:
            top = times(r, max0)
            bottom = np.full_like(top, min0)
            scale = step_of(min0, top, dtype.qmax - dtype.qmin)
        scale = usable_scale(scale, spec)
        losses = _losses(stats, scale, bottom, top)
        best = scale[int(np.argmin(losses))]
        offset = 0 if spec.symmetric else dtype.qmin - int(np.rint(min0 / best))
        return QuantParams(best, np.array(offset, dtype=np.int32), dtype)

    def _initial(self, stats: TensorStats) -> tuple[np.float32, np.float32]:
        """Return the initial upper and lower bound, on either side of zero."""
        n = stats.count
        k_max = percentile_rank(n, self.max_percentile)
        k_min = percentile_rank(n, self.min_percentile)
        high, low = stats.max, stats.min
        if k_max > 1 or k_min > 1:
            x = distribution(stats)
            high, low = x.order_statistic(n - k_max), x.order_statistic(k_min - 1)
        return np.float32(max(high, 0.0)), np.float32(min(low, 0.0))


def _losses(
    stats: TensorStats, scale: FloatArray, bottom: FloatArray, top: FloatArray
) -> npt.NDArray[np.float64]:
    """Return the sum of squared errors of each candidate (candidates,)."""
    values, counts = stats.values, stats.points()[1]
    if (
        stats.min == stats.max
    ):  # a constant is known exactly, and several ratios hit it but for rounding
        values, counts = np.array([stats.min], dtype=np.float32), np.ones(1, dtype=np.int64)
    if values is None:
        first, last = np.rint(bottom / scale), np.rint(top / scale)
        return squared_errors(distribution(stats), scale, first, last, prune=True)
    losses = np.zeros(scale.shape)
    for start in range(0, values.size, _CHUNK):
        x, count = values[start : start + _CHUNK], counts[start : start + _CHUNK]
        for i in range(scale.size):
            y = x.clip(bottom[i], top[i])
            y /= scale[i]
            np.rint(y, out=y)
            with np.errstate(over="ignore"):  # a level beyond float32 has an infinite loss
                y *= scale[i]
            y -= x
            square = np.multiply(y, y, dtype=np.float64)  # in float32, 1e20 would overflow
            losses[i] += (square * count).sum()
    return losses
