"""Threshold on |x| by Kullback-Leibler divergence of merged bins.

    P(i) = counts of the first i bins of |x|, what lies above added to the last of them
    Q(i) = the same counts without that, merged into 2**(bits-1) groups and spread again over the bins
           of each group that are not empty
    i    = argmin KL(P(i) || Q(i)),  the larger i on a tie (relative 1e-12);   threshold = (i + 0.5) * width

1e-12 is added to both. Bin 0 counts at most as much as bin 1, so that the zeros behind a ReLU do not
outweigh the rest. At 16 bits there are more levels than bins and nothing to merge: the result is that of
`max`.

The width of a bin comes from the first batch in the vendor's text, so the result would depend on the order
of the batches. Here `bins` bins reach up to the 0.9999 quantile of |x|, as the first batch's range about
does; bins of the same width are appended up to the maximum, and pairs are merged while there are more than
`max_bins`.

Source: docs/explanation/algorithms/kl-merge.md.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check, kernels, magnitudes
from calibrant.algorithms._search import constant, within
from calibrant.algorithms.options import options
from calibrant.errors import ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats

FloatArray = npt.NDArray[np.float64]

_FIRST_BATCH = 0.9999  # quantile of |x| that stands for the range of a first batch
_FLOOR = 1e-12  # counts, in logarithms


@register_activation("kl-merge")
@options
class KlMerge:
    """Search the threshold of least divergence between bins and merged bins.

    Args:
        bins: Bins of |x| over the bulk of the data.
        max_bins: Most bins over all of it, at least 258 and at least `bins`.
    """

    bins: Annotated[int, Field(ge=129, le=1 << 16)] = 1024
    max_bins: Annotated[int, Field(ge=258, le=1 << 16)] = 16384

    def __post_init__(self) -> None:
        """Check the fields together."""
        if self.max_bins < self.bins:
            raise ConfigValueError(
                f"max_bins is {self.max_bins}; it is at least bins, {self.bins}."
            )

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters of the best threshold."""
        check(stats, spec)
        if stats.min == stats.max:
            return constant(stats.min, spec)
        groups = 1 << (spec.bits - 1)
        key = ("kl-merge threshold", self.bins, self.max_bins, groups)
        return within(stats, stats.derived(key, lambda s: self._threshold(s, groups)), spec)

    def _threshold(self, stats: TensorStats, groups: int) -> float:
        """Return the best threshold, in units of x; it does not depend on the symmetry of the grid."""
        x = magnitudes(stats)
        largest = float(x.upper[-1])
        if groups == 1 << 15 or largest == 0:
            return largest
        width = (x.quantile(_FIRST_BATCH) or largest) / self.bins
        width *= 2 ** max(math.ceil(math.log2(largest / width / self.max_bins)), 0)
        n = max(math.ceil(largest / width * (1 - 1e-12)), groups)
        edges = np.append(np.arange(n) * width, np.inf)
        counts = np.diff(x.below(edges)[0])  # (n,)
        counts[0] = min(counts[0], counts[1])
        if not counts.any():  # all but a few values are zero
            return largest
        best = _least_divergence(counts, groups)
        return float(min((best + 0.5) * width, largest))


def _least_divergence(counts: FloatArray, groups: int) -> int:
    """Return the number of bins with the least divergence, the largest of equal ones (relative 1e-12)."""
    below, filled, plogp = (
        np.concatenate([[0.0], np.cumsum(x)])
        for x in (counts, counts > 0, counts * np.log(np.maximum(counts, _FLOOR)))
    )
    losses = np.empty(counts.size + 1 - groups)
    kernels().merge_losses(counts, below, filled, plogp, groups, losses)
    near = losses <= losses.min() * (1 + 1e-12)
    return groups + int(np.flatnonzero(near)[-1])
