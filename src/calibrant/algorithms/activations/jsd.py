"""The range whose quantized values have the least Jensen-Shannon divergence.

    A = (P + Q) / 2;  D = sum P ln(P / A) / 2 + sum Q ln(Q / A) / 2

Source: docs/explanation/algorithms/kl.md; the search is `_divergence.search`.
"""

from __future__ import annotations

from calibrant.algorithms import register_activation
from calibrant.algorithms._divergence import search
from calibrant.algorithms._search import check_ratios
from calibrant.algorithms.options import Bins, Percent, Positive, options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.metrics import jsd
from calibrant.stats import TensorStats


@register_activation("jsd")
@options
class Jsd:
    """Search the upper bound of least Jensen-Shannon divergence.

    Args:
        bins: Bins that the two distributions are compared in.
        start_ratio: First ratio of the initial maximum to try.
        end_ratio: Last ratio.
        step_ratio: Distance between two ratios.
        max_percentile: Share of the values below the initial maximum.
    """

    bins: Bins = 150
    start_ratio: Positive = 0.7
    end_ratio: Positive = 1.3
    step_ratio: Positive = 0.01
    max_percentile: Percent = 1.0

    def __post_init__(self) -> None:
        """Check the fields together."""
        check_ratios(self.start_ratio, self.end_ratio, self.step_ratio)

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters of the best ratio."""
        return search(stats, spec, self, jsd)
