"""Clip range by least squared error, each end by itself.

A range smaller than the one seen clips a few outliers and buys a finer step for everything else:

    loss(lo, hi) = sum (x - fake_quantize(x, lo, hi))**2

with the rounded zero point and the clamp of the grid in it. Both ends are scaled together first, over
ratios that fall by a constant factor, so that an outlier of 1e4 times the bulk is seen past; then, where
the zero point is free, the two ends are searched in turn; each search ends with a finer one around the best
ratio. A last search tries scales and zero points around the best; where all values have one sign, it keeps the
zero point and goes not beyond the values, so that behind a Relu or a Clip the grid stays inside what these let through
(a runtime then leaves them out). The whole range is the first candidate, so the loss is never above that of `min-max`.

Source: Banner, Nahshan, Soudry, "Post training 4-bit quantization of convolutional networks for
rapid-deployment", NeurIPS 2019 (the objective; there it is solved in closed form).
"""

from __future__ import annotations

from functools import cache
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import register_activation
from calibrant.algorithms._distribution import check, distribution, least_error
from calibrant.algorithms.options import Ratio, options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.params import smallest_scale
from calibrant.stats import TensorStats


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
        coarse = _ratios(self.smallest_ratio, self.steps)
        dtype = spec.dtype
        smallest = float(smallest_scale(spec))
        grid = dtype.qmin, dtype.qmax, spec.symmetric, smallest, spec.tiny_to_one
        values = *x.bins, *x.sums, x.square_below
        search = least_error()
        scale, zero_point = search.best_grid(values, low, high, coarse, grid, search.ENDS)
        return QuantParams(np.asarray(scale), np.asarray(zero_point, dtype=np.int32), dtype)


@cache
def _ratios(smallest: float, steps: int) -> npt.NDArray[np.float64]:
    """Return ratios that fall by a constant factor, (steps,); not to be changed."""
    return np.geomspace(1.0, smallest, steps)
