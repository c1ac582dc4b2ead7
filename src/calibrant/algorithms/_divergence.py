"""Search the upper bound whose quantized values are distributed most like the values themselves.

    m, M   = min(0, min x), max(0, k-th largest x)                      asymmetric
           = -M, k-th largest |x|                                       symmetric
    T(r)   = r * M;  scale from [m, T] or [-T, T]                       r = start, start + step, …
    P      = counts of x in equal bins over [m, max x] or ±max |x|
    Q(r)   = counts of fake_quantize(x), those of a level spread evenly over its cell, in the same bins

Both get 1e-4 added to every bin and are divided by their sum. The r of least divergence D(P, Q) wins; of
equal ones (relative 1e-12) the r closest to 1. Spreading avoids comb patterns where a cell is wider than a
bin; clipped values pile up in the last cell, and are penalised there.

Source: docs/explanation/algorithms/kl.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from calibrant.algorithms._distribution import check, distribution, kernels, percentile_rank
from calibrant.algorithms._search import constant, ratios, times
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.params import SCALE_EPS, step_of, usable_scale
from calibrant.stats import TensorStats

__all__ = ["DivergenceOptions", "search"]

FloatArray = npt.NDArray[np.float64]

_SMOOTH = 1e-4  # counts


class DivergenceOptions(Protocol):
    """The options that the three divergences have in common."""

    @property
    def bins(self) -> int: ...
    @property
    def start_ratio(self) -> float: ...
    @property
    def end_ratio(self) -> float: ...
    @property
    def step_ratio(self) -> float: ...
    @property
    def max_percentile(self) -> float: ...


def search(
    stats: TensorStats,
    spec: QuantSpec,
    options: DivergenceOptions,
    divergence: Callable[[FloatArray, FloatArray], FloatArray],
) -> QuantParams:
    """Return the parameters of the ratio of least divergence.

    Args:
        stats: Values.
        spec: Grid and symmetry.
        options: Bins, ratios, percentile.
        divergence: Of two arrays of weights along their last axis, (…, bins) -> (…).
    """
    check(stats, spec)
    x = distribution(stats)
    if stats.min == stats.max:
        return constant(stats.min, spec)
    r = ratios(options.start_ratio, options.end_ratio, options.step_ratio)
    rank = x.count - percentile_rank(x.count, options.max_percentile)
    dtype = spec.dtype
    if spec.symmetric:
        top = times(r, np.float32(x.folded().order_statistic(rank)))
        scale = top / np.float32(dtype.qmax)
        hi = max(-stats.min, stats.max)
        lo = -hi
    else:
        lo, hi = min(stats.min, 0.0), stats.max
        top = times(r, np.float32(max(x.order_statistic(rank), 0.0)))
        scale = step_of(np.float32(lo), top, dtype.qmax - dtype.qmin)
    guarded = scale < SCALE_EPS if spec.tiny_to_one else scale == 0
    scale = usable_scale(scale, spec)
    offset = np.zeros(scale.shape, dtype=np.int32)
    if not spec.symmetric:
        offset = (dtype.qmin - np.rint(np.float32(lo) / scale)).astype(np.int32)
        offset = np.where(guarded, np.int32(dtype.qmin), offset)
    edges: FloatArray = np.linspace(lo, hi, options.bins + 1, dtype=np.float64)
    p = np.diff(x.below(np.append(edges[:-1], np.inf))[0])  # (bins,)
    q = np.empty((r.size, options.bins))  # (candidates, bins)
    first, last = dtype.qmin - offset, dtype.qmax - offset
    kernels().spread_counts(
        *x.bins, x.count_below, scale.astype(np.float64), first, last, edges, q
    )
    loss = divergence(p + _SMOOTH, q + _SMOOTH)
    near = loss <= loss.min() + 1e-12 * abs(loss.min())
    best = int(np.argmin(np.where(near, np.abs(r - np.float32(1)), np.inf)))
    return QuantParams(scale[best], offset[best], dtype)
