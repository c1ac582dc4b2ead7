"""Clip range by least squared error, each end by itself.

A range smaller than the one seen clips a few outliers and buys a finer step for everything else:

    loss(lo, hi) = sum (x - fake_quantize(x, lo, hi))**2

with the rounded zero point and the clamp of the grid in it. Both ends are scaled together first, over
ratios that fall by a constant factor, so that an outlier of 1e4 times the bulk is seen past; then, where
the zero point is free, the two ends are searched in turn; each search ends with two finer ones around the
best ratio. A last search tries scales and zero points around the best; where all values have one sign, it keeps the
zero point and goes not beyond the values, so that behind a Relu or a Clip the grid stays inside what these let through
(a runtime then leaves them out). The whole range is the first candidate, so the loss is never above that of `min-max`.

Source: Banner, Nahshan, Soudry, "Post training 4-bit quantization of convolutional networks for
rapid-deployment", NeurIPS 2019 (the objective; there it is solved in closed form).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import Distribution, check, distribution
from calibrant.algorithms._loss import range_losses, squared_errors
from calibrant.algorithms.options import Ratio, options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.params import smallest_scale
from calibrant.stats import TensorStats

FloatArray = npt.NDArray[np.float64]

_FINER = 12  # candidates of each finer search
_SHIFTS = np.array(
    [0, -3, -2, -1, 1, 2, 3], dtype=np.int32
)  # of the zero point, in the last search
_REACHES = (0.05, 0.008)  # of the scale, on either side


@register_activation("mse")
@options
class Mse:
    """Search the clip range that loses the least squared error.

    Args:
        smallest_ratio: Smallest part of the observed range to try.
        steps: How many ratios the first search tries, from 1 down to the smallest.
    """

    smallest_ratio: Ratio = 1e-4
    steps: Annotated[int, Field(ge=2, le=10_000)] = 40

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters of the best range."""
        check(stats, spec)
        x = distribution(stats)
        low, high = min(stats.min, 0.0), max(stats.max, 0.0)
        coarse = np.geomspace(1.0, self.smallest_ratio, self.steps)
        if spec.symmetric:
            bound = max(-low, high)

            def both_ends(r: FloatArray) -> tuple[FloatArray, FloatArray]:
                return np.maximum(low, -r * bound), np.minimum(high, r * bound)
        else:

            def both_ends(r: FloatArray) -> tuple[FloatArray, FloatArray]:
                return r * low, r * high

        both = _best(coarse, lambda r: range_losses(x, *both_ends(r), spec, prune=True))
        if spec.symmetric or low == 0 or high == 0:
            return _polish(x, QuantParams.from_range(*both_ends(np.array(both)), spec), spec)
        up = _best(np.append(both, coarse), partial(_losses, x, spec, low * both, high, 1))
        down = _best(np.append(both, coarse), partial(_losses, x, spec, low, high * up, 0))
        return _polish(x, QuantParams.from_range(low * down, high * up, spec), spec)


def _polish(x: Distribution, start: QuantParams, spec: QuantSpec) -> QuantParams:
    """Search the scales and zero points around some parameters; at 16 bits there is nothing to gain.

    Along an end of the range the loss is jagged, because the zero point jumps. At one zero point it is
    smooth along the scale.
    """
    if spec.bits > 8:
        return start
    dtype = start.dtype
    scale, zero_point = start.scale, start.zero_point
    low, high = min(float(x.lower[0]), 0.0), max(float(x.upper[-1]), 0.0)
    one_sided = not spec.symmetric and (low == 0 or high == 0)
    widest = QuantParams.from_range(low, high, spec).scale if one_sided else np.float32(np.inf)
    shifts = np.zeros(1, dtype=np.int32) if spec.symmetric or one_sided else _SHIFTS
    for reach in _REACHES:
        factors = np.append(1.0, np.linspace(1 - reach, 1 + reach, _FINER))  # as it is wins a tie
        s = (scale * factors).astype(np.float32)  # (scales,)
        s = np.where((s < smallest_scale(spec)) | (s > widest), scale, s)
        z = (zero_point + shifts).clip(dtype.qmin, dtype.qmax).astype(np.int32)  # (grids,)
        grids = np.broadcast_to(z, (s.size, z.size))
        found = squared_errors(x, s, dtype.qmin - grids, dtype.qmax - grids, prune=True)
        best, shift = divmod(int(np.argmin(found)), z.size)
        scale, zero_point = s[best], z[shift]
    return QuantParams(scale, zero_point, dtype)


def _losses(
    x: Distribution, spec: QuantSpec, low: float, high: float, end: int, ratio: FloatArray
) -> FloatArray:
    """Return the loss for each ratio (candidates,) of the lower end (0) or the upper one (1)."""
    one = np.ones_like(ratio)
    lo, hi = low * (one if end else ratio), high * (ratio if end else one)
    return range_losses(x, lo, hi, spec, prune=True)


def _best(coarse: FloatArray, losses: Callable[[FloatArray], FloatArray]) -> float:
    """Return the ratio of least loss: the best of the coarse ones, then of finer ones around it."""
    tried, found = coarse, losses(coarse)
    for _ in range(2):
        best = tried[int(np.argmin(found))]
        ordered = np.unique(tried)
        i = int(np.searchsorted(ordered, best))
        left = ordered[i - 1] if i > 0 else best * 0.9
        right = ordered[i + 1] if i + 1 < ordered.size else min(best * 1.1, 1.0)
        finer = np.linspace(left, right, _FINER + 2)[1:-1]
        tried, found = np.append(tried, finer), np.append(found, losses(finer))
    return float(tried[int(np.argmin(found))])
