"""Threshold on |x| by Kullback-Leibler divergence of merged bins.

    P(i) = counts of the first i bins of |x|, what lies above added to the last of them
    Q(i) = the same counts without that, merged into 2**(bits-1) groups and spread again over the bins
           of each group that are not empty
    i    = argmin KL(P(i) || Q(i)),  the larger i on a tie;   threshold = (i + 0.5) * width

1e-12 is added to both. Bin 0 counts at most as much as bin 1, so that the zeros behind a ReLU do not
outweigh the rest. At 16 bits there are more levels than bins and nothing to merge: the result is that of
`max`.

The width of a bin comes from the first batch in the vendor's text, so the result would depend on the order
of the batches. Here `bins` bins reach up to the 0.9999 quantile of |x|, as the first batch's range about
does; bins of the same width are appended up to the maximum, and pairs are merged while there are more than
`max_bins`.

Source: horizon.md 3.4.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check, distribution
from calibrant.algorithms._search import constant, within
from calibrant.algorithms.options import options
from calibrant.errors import ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats

FloatArray = npt.NDArray[np.float64]

_FIRST_BATCH = 0.9999  # quantile of |x| that stands for the range of a first batch
_FLOOR = 1e-12
_TABLE = 1 << 18  # look-ups at a time


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
        x = distribution(stats).folded()
        if stats.min == stats.max:
            return constant(stats.min, spec)
        largest = float(x.upper[-1])
        groups = 1 << (spec.bits - 1)
        if spec.bits == 16:
            return within(stats, largest, spec)
        width = (x.quantile(_FIRST_BATCH) or largest) / self.bins
        width *= 2 ** max(math.ceil(math.log2(largest / width / self.max_bins)), 0)
        n = max(math.ceil(largest / width * (1 - 1e-12)), groups)
        edges = np.append(np.arange(n) * width, np.inf)
        counts = np.diff(x.below(edges)[0])  # (n,)
        counts[0] = min(counts[0], counts[1])
        if not counts.any():  # all but a few values are zero
            return within(stats, largest, spec)
        tried = np.arange(groups, n + 1)  # (candidates,)
        loss = _divergence(counts, tried, groups)
        best = tried[loss.size - 1 - int(np.argmin(loss[::-1]))]
        return within(stats, float(min((best + 0.5) * width, largest)), spec)


def _divergence(counts: FloatArray, tried: npt.NDArray[np.int64], groups: int) -> FloatArray:
    """Return KL(P || Q) of the first `tried` bins (candidates,).

    With p = P / sum P and q = Q / sum Q, it is sum p ln p - sum p ln q. The first is a running sum. In
    the second all bins of a group that are not empty share one q, so it needs the group's count and
    number of such bins, from running sums too. The last bin has the tail in P besides.
    """
    total = counts.sum()
    below = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0.0], np.cumsum(counts > 0)])
    plogp = np.concatenate([[0.0], np.cumsum(_xlogx(counts))])
    inside = below[tried]  # (candidates,)
    last = counts[tried - 1]
    tail = total - inside
    entropy = plogp[tried - 1] + _xlogx(last + tail)
    cross = np.empty(tried.shape)
    for start in range(0, tried.size, chunk := max(_TABLE // groups, 1)):
        i = tried[start : start + chunk]
        ends = np.arange(groups + 1) * i[:, None] // groups  # (candidates, groups + 1)
        mass = np.diff(below[ends], axis=1)
        level = mass / np.maximum(np.diff(filled[ends], axis=1), 1)  # counts of a bin in Q
        log_level = np.log(np.maximum(level, _FLOOR))
        last_log = np.where(last[start : start + chunk] > 0, log_level[:, -1], np.log(_FLOOR))
        cross[start : start + chunk] = (mass * log_level).sum(axis=1) + tail[
            start : start + chunk
        ] * last_log
    divergence = (entropy - cross) / total - np.log(total) + np.log(np.maximum(inside, _FLOOR))
    return np.asarray(divergence)


def _xlogx(x: FloatArray) -> FloatArray:
    return np.asarray(x * np.log(np.maximum(x, _FLOOR)))
