"""The largest magnitude, or a quantile of the magnitudes.

    T        = quantile(|x|, max_percentile)          linear between two ranks; 1 is the maximum
    [lo, hi] = [-T, T]                                symmetric
             = [max(min x, -T), min(max x, T)]        asymmetric: the part of it that occurs

Source: Horizon's `max` (docs/explanation/algorithms/max.md); the asymmetric form is ours, and with
max_percentile 1 it is `min-max`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check, magnitudes
from calibrant.algorithms._search import within
from calibrant.algorithms.options import options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats


@register_activation("max")
@options
class Max:
    """Clip at the largest magnitude, or at a quantile of the magnitudes.

    Args:
        max_percentile: Share of the magnitudes that stays in the range.
    """

    max_percentile: Annotated[float, Field(ge=0.5, le=1)] = 1.0

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters of the threshold."""
        check(stats, spec)
        if self.max_percentile < 1:
            threshold = magnitudes(stats).quantile(self.max_percentile)
        else:
            threshold = max(abs(stats.min), abs(stats.max))
        return within(stats, threshold, spec)
