"""Clip the same share of the values at either end.

    [lo, hi] = [quantile(x, 1 - p), quantile(x, p)]        linear between two ranks

Source: the percentile calibration of ONNX Runtime's and Horizon's tools for the idea; two ends here.
"""

from __future__ import annotations

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check, distribution
from calibrant.algorithms.options import Percent, options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats


@register_activation("percentile")
@options
class Percentile:
    """Clip the outermost values.

    Args:
        percentile: Share of the values below the upper end, and above the lower end.
    """

    percentile: Percent = 0.99995

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters whose grid covers the two quantiles."""
        check(stats, spec)
        x = distribution(stats)
        return QuantParams.from_range(
            x.quantile(1 - self.percentile), x.quantile(self.percentile), spec
        )
