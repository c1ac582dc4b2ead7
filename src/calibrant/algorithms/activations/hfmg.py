"""HFMG: shrink the range of a histogram from both ends, keep the range of least error.

The histogram has equal bins over [min x, max x]. From the whole range, the end that frees more bins by
giving up a hundred thousandth of the values moves inwards, and each range on the way is a candidate. The
values of a bin count as spread evenly over it, and

    loss = sum over the values of (x - middle of the nearest of 2**bits equal cells of the range)**2

The first candidate of least loss wins; scale and zero point follow from its ends.

Several batches are one histogram here, that of all their values; the vendor redistributes counts when
the range grows, which makes the result depend on the order of the batches.

Source: docs/explanation/algorithms/hfmg.md.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check, distribution, kernels
from calibrant.algorithms.options import options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.params import smallest_scale
from calibrant.stats import TensorStats

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LARGEST = float(np.finfo(np.float32).max)
_BESIDE = 6  # bins that either end may lie beside the way of the search
_TURNS = 2  # of that, each around the best range so far
_SHARE = 100_000  # each candidate gives up one value in so many


@register_activation("hfmg")
@options
class Hfmg:
    """Search the range of a histogram that loses the least squared error.

    Args:
        bins: Bins of the histogram.
    """

    bins: Literal[1024, 2048, 4096, 8192] = 4096

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters of the best range; of the constant where all values are one."""
        check(stats, spec)
        if stats.min == stats.max:
            return QuantParams.from_range(stats.min, stats.max, spec)
        left, right = _search(stats, self.bins, spec)
        width = (stats.max - stats.min) / self.bins
        high = min(stats.min + (right + 1) * width, _LARGEST)
        return QuantParams.from_range(stats.min + left * width, high, spec)


def _search(stats: TensorStats, bins: int, spec: QuantSpec) -> tuple[int, int]:
    """Return the first and last bin of the best range."""
    histogram = _histogram(stats, bins)
    cells = 1 << spec.bits
    smallest = float(smallest_scale(spec))
    guard = smallest * cells * bins / (stats.max - stats.min)  # bins a range needs for a loss

    def losses(left: IntArray, right: IntArray) -> FloatArray:
        found = _losses(histogram, left, right, cells)
        found[right - left + 1 < guard] = 0
        return found

    left, right = _candidates(histogram)
    loss = losses(left, right)
    best = int(np.argmin(loss))
    if stats.values is not None:
        return int(left[best]), int(right[best])
    # Which bin of the histogram a lone value near an edge fell into is not known, and the way of the
    # search turns on it; the ranges beside its best make up for that.
    near = np.arange(-_BESIDE, _BESIDE + 1)
    left, right = left[best : best + 1], right[best : best + 1]
    for _ in range(_TURNS):
        around = np.meshgrid(left[0] + near, right[0] + near, indexing="ij")
        first, last = (g.reshape(-1).clip(0, bins - 1) for g in around)
        kept = last - first > math.ceil(bins / 4)
        left, right = np.append(left, first[kept]), np.append(right, last[kept])
        best = int(np.argmin(losses(left, right)))
        left, right = left[best : best + 1], right[best : best + 1]
    return int(left[0]), int(right[0])


def _histogram(stats: TensorStats, bins: int) -> FloatArray:
    """Return the counts (bins,) of equal bins over [min, max], whole numbers."""
    if stats.values is not None:
        low, high = stats.values[0], stats.values[-1]
        half = np.float32(0.5 if stats.max - stats.min > _LARGEST else 1)
        part = (stats.values * half - low * half) / (high * half - low * half)
        place = (part * np.float32(bins)).astype(np.int64)
        counts = stats.points()[1].astype(np.float64)
        return np.bincount(place.clip(0, bins - 1), counts, minlength=bins).astype(np.float64)
    edges = np.linspace(stats.min, stats.max, bins + 1)
    edges[-1] = np.inf
    # Rounded, so that a lone value on an edge lies on one side of it: the search counts single values.
    return np.asarray(np.diff(np.rint(distribution(stats).below(edges)[0])), dtype=np.float64)


def _candidates(histogram: FloatArray) -> tuple[IntArray, IntArray]:
    """Return first and last bin of each range, two arrays (candidates,)."""
    below = np.concatenate([[0.0], np.cumsum(histogram)])  # below[k]: values before bin k
    step = float(max(math.ceil(below[-1] / _SHARE), 1))
    left, right = np.empty((2, histogram.size), dtype=np.int64)
    found = kernels().shrinking_ranges(below, step, math.ceil(histogram.size / 4), left, right)
    return left[:found], right[:found]


def _losses(histogram: FloatArray, left: IntArray, right: IntArray, cells: int) -> FloatArray:
    """Return the loss of each range (candidates,), in units of a bin's width squared."""
    loss = _by_cell if cells <= histogram.size else _by_bin
    return loss(histogram, left, right, cells)


def _by_cell(histogram: FloatArray, left: IntArray, right: IntArray, cells: int) -> FloatArray:
    """Split the sum by cell: sum x**2 - 2 v sum x + v**2 count, each from running sums."""
    bins = histogram.size
    start = np.arange(bins) - bins / 2  # lower ends, from the middle: smaller squares cancel less
    count_below = np.concatenate([[0.0], np.cumsum(histogram)])
    sum_below = np.concatenate([[0.0], np.cumsum(histogram * (start + 0.5))])
    squares = float((histogram * (start * (start + 1) + 1 / 3)).sum())
    losses = np.empty(left.size)
    kernels().cell_losses(histogram, start, count_below, sum_below, left, right, cells, losses)
    return squares + losses


def _by_bin(histogram: FloatArray, left: IntArray, right: IntArray, cells: int) -> FloatArray:
    """Integrate over each bin; see `_loss._by_bin` for the integral."""
    jump = -np.diff(histogram, prepend=0, append=0)  # (bins + 1,) of the density at each edge
    cell = (right - left + 1) / cells
    losses = np.empty(left.size)
    for i in range(left.size):
        u = (np.arange(jump.size) - left[i]) / cell[i] - 0.5
        k = np.rint(u).clip(0, cells - 1)
        u -= k
        losses[i] = (jump * (k / 12 + u * u * u / 3)).sum() * cell[i] ** 3
    return losses
