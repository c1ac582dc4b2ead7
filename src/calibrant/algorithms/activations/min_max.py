"""The whole observed range.

    [lo, hi] = [min x, max x]

Source: docs/explanation/grid.md; Ascend's and Horizon's tools have it.
"""

from __future__ import annotations

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check
from calibrant.algorithms.options import options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats


@register_activation("min-max")
@options
class MinMax:
    """Cover every value seen."""

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters whose grid covers [min, max]."""
        return QuantParams.from_range(*self.range_of(stats, spec), spec)

    def range_of(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        """Return the lowest and the highest value."""
        check(stats, spec)
        return stats.min, stats.max
