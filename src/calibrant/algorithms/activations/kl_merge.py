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
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check, magnitudes
from calibrant.algorithms._search import constant, within
from calibrant.algorithms.options import options
from calibrant.errors import ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats

FloatArray = npt.NDArray[np.float64]

_FIRST_BATCH = 0.9999  # quantile of |x| that stands for the range of a first batch
_FLOOR = 1e-12
_TABLE = 1 << 18  # look-ups at a time
_BOUNDING = 4  # groups that the bound looks at
_FIRST = 16  # candidates of the least bound that are worked out first
_SLACK = 1e-9  # nats; what rounding may do to the bound


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
        best = _least_divergence(_Counts.of(counts), groups)
        return float(min((best + 0.5) * width, largest))


@dataclass(frozen=True, slots=True, eq=False)
class _Counts:
    """Counts of bins (n,), with running sums (n + 1,) of themselves, of bins that are not empty, and of c ln c."""

    counts: FloatArray
    below: FloatArray
    filled: FloatArray
    plogp: FloatArray

    @classmethod
    def of(cls, counts: FloatArray) -> _Counts:
        below, filled, plogp = (
            np.concatenate([[0.0], np.cumsum(x)]) for x in (counts, counts > 0, _xlogx(counts))
        )
        return cls(counts, below, filled, plogp)


def _least_divergence(x: _Counts, groups: int) -> int:
    """Return the number of bins with the least divergence, the largest of equal ones.

    A bound that costs little, taken for all numbers of bins, leaves a quarter of them to be worked out.
    """
    tried = np.arange(groups, x.counts.size + 1)  # (candidates,)
    bound = _lower_bound(x, tried, groups)
    first = tried[np.argsort(bound, kind="stable")[:_FIRST]]
    reached = float(_divergence(x, first, groups).min())
    left = tried[bound <= reached + _SLACK]
    loss = _divergence(x, left, groups)
    return int(left[loss.size - 1 - int(np.argmin(loss[::-1]))])


def _lower_bound(x: _Counts, tried: npt.NDArray[np.int64], groups: int) -> FloatArray:
    """Return numbers that KL(P || Q) is not below (candidates,).

    What a group of bins adds to the divergence beside the last bin's tail is not negative (the log sum
    inequality), so the first few groups and the last bin are a bound.
    """
    shift = groups.bit_length() - 1  # groups are a power of two
    total = x.below[-1]
    inside, last = x.below[tried], x.counts[tried - 1]
    tail = total - inside
    start = (groups - 1) * tried >> shift
    level = (inside - x.below[start]) / np.maximum(x.filled[tried] - x.filled[start], 1)
    log_level = np.log(np.where(last > 0, np.maximum(level, _FLOOR), _FLOOR))
    bound = _xlogx(last + tail) - _xlogx(last) - tail * log_level
    ends = np.arange(_BOUNDING + 1) * tried[:, None] >> shift  # (candidates, groups + 1)
    mass = np.diff(x.below[ends], axis=1)
    level = mass / np.maximum(np.diff(x.filled[ends], axis=1), 1)
    within_groups = np.diff(x.plogp[ends], axis=1) - mass * np.log(np.maximum(level, _FLOOR))
    bound += within_groups.sum(axis=1)
    return np.asarray(bound / total - np.log(total) + np.log(np.maximum(inside, _FLOOR)))


def _divergence(x: _Counts, tried: npt.NDArray[np.int64], groups: int) -> FloatArray:
    """Return KL(P || Q) of the first `tried` bins (candidates,).

    With p = P / sum P and q = Q / sum Q, it is sum p ln p - sum p ln q. The first is a running sum. In
    the second all bins of a group that are not empty share one q, so it needs the group's count and
    number of such bins, from running sums too. The last bin has the tail in P besides.
    """
    shift = groups.bit_length() - 1  # groups are a power of two
    total = x.below[-1]
    inside = x.below[tried]  # (candidates,)
    last = x.counts[tried - 1]
    tail = total - inside
    entropy = x.plogp[tried - 1] + _xlogx(last + tail)
    cross = np.empty(tried.shape)
    for start in range(0, tried.size, chunk := max(_TABLE // groups, 1)):
        i = tried[start : start + chunk]
        ends = np.arange(groups + 1) * i[:, None] >> shift  # (candidates, groups + 1)
        mass = np.diff(x.below[ends], axis=1)
        level = mass / np.maximum(np.diff(x.filled[ends], axis=1), 1)  # counts of a bin in Q
        log_level = np.log(np.maximum(level, _FLOOR))
        last_log = np.where(last[start : start + chunk] > 0, log_level[:, -1], np.log(_FLOOR))
        cross[start : start + chunk] = (mass * log_level).sum(axis=1) + tail[
            start : start + chunk
        ] * last_log
    divergence = (entropy - cross) / total - np.log(total) + np.log(np.maximum(inside, _FLOOR))
    return np.asarray(divergence)


def _xlogx(x: FloatArray) -> FloatArray:
    return np.asarray(x * np.log(np.maximum(x, _FLOOR)))
