"""The squared error of a uniform quantizer, for many candidates at once.

A quantizer here is a scale s and the integers from `first` to `last` that it may round to:

    x_hat = clip(round(x / s), first, last) * s
    loss  = sum over all values of (x - x_hat)**2

Both ways below are exact for values spread evenly over their bins. The first needs two look-ups for each
level instead of one operation for each bin; the second is for grids with more levels than bins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibrant.algorithms._distribution import Distribution
from calibrant.numerics import QuantParams, QuantSpec

__all__ = ["range_losses", "squared_errors"]

FloatArray = npt.NDArray[np.float64]

_MANY_LEVELS = 1024  # more than this, and looking at each bin is cheaper than at each level


def squared_errors(
    x: Distribution, scale: npt.ArrayLike, first: npt.ArrayLike, last: npt.ArrayLike
) -> FloatArray:
    """Return the sum of squared errors of each candidate.

    Args:
        x: Values.
        scale: (candidates,) units of x per step.
        first: (candidates,) lowest level.
        last: (candidates,) highest level.

    Returns:
        (candidates,) in units of x squared.
    """
    s = np.asarray(scale, dtype=np.float64)
    low = np.asarray(first, dtype=np.float64)
    high = np.asarray(last, dtype=np.float64)
    if (high - low).max() > _MANY_LEVELS:
        return _by_bin(x, s, low, high)
    return _by_level(x, s, low, high)


def range_losses(
    x: Distribution, lo: npt.ArrayLike, hi: npt.ArrayLike, spec: QuantSpec
) -> FloatArray:
    """Return the sum of squared errors of each range [lo, hi] (candidates,), zero point and all."""
    p = QuantParams.from_range(lo, hi, spec)
    return squared_errors(x, p.scale, p.dtype.qmin - p.zero_point, p.dtype.qmax - p.zero_point)


def _by_level(x: Distribution, s: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Split the sum by level v: sum x**2 - 2 v sum x + v**2 count, each from running sums."""
    levels = low[:, None] + np.arange(int((high - low).max()) + 1)  # (candidates, levels)
    ends = np.where(levels < high[:, None], (levels + 0.5) * s[:, None], np.inf)
    count_below, sum_below = x.below(ends)
    count = np.diff(count_below, axis=1, prepend=0)
    total = np.diff(sum_below, axis=1, prepend=0)
    v = levels * s[:, None]
    return np.asarray(x.sum_squares + (v * (v * count - 2 * total)).sum(axis=1))


def _by_bin(x: Distribution, s: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Integrate over each bin.

    With u = x / s, k the level it rounds to and d = u - k, the integral of d**2 from 0 to u is
    G(u) = k/12 + d**3/3, continuous across levels and beyond the clip. A bin from a to b of density r
    adds r s**3 (G(b/s) - G(a/s)); neighbouring bins share an edge, so each edge is looked at once, with
    the difference of the densities on its two sides.
    """
    wide = x.upper > x.lower
    ends = np.stack([x.lower[wide], x.upper[wide]], axis=1).reshape(-1)  # a0 b0 a1 b1 …
    density = x.counts[wide] / (x.upper[wide] - x.lower[wide])
    jump = np.stack([-density, density], axis=1).reshape(-1)
    first = np.flatnonzero(np.diff(ends, prepend=-np.inf))  # the ends ascend; of each, once
    edge, change = ends[first], np.add.reduceat(jump, first) if jump.size else jump
    point, weight = x.lower[~wide], x.counts[~wide]
    losses = np.empty(s.shape)
    for i in range(s.size):
        u = edge / s[i]
        k = np.rint(u).clip(low[i], high[i])
        u -= k
        inside = (change * (k / 12 + u * u * u / 3)).sum() * s[i] ** 3
        off = point / s[i]
        off -= np.rint(off).clip(low[i], high[i])
        losses[i] = inside + (weight * off * off).sum() * s[i] ** 2
    return losses
