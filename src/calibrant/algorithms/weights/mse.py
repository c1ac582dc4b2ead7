"""Weight scale by least squared error, each channel by itself.

    scale(r) = r * (scale of the largest magnitude)
    loss(r)  = sum (w - clip(round(w / scale), qmin, qmax) * scale)**2         over a channel

The rows are brought near 1 by powers of two before, so that squares neither vanish nor overflow. First ratios from 1 down to `smallest_ratio`, then finer ones around the best of each channel. r = 1 is the
first candidate, so no channel is worse than with `arq`.

Source: Banner, Nahshan, Soudry, "Post training 4-bit quantization of convolutional networks for
rapid-deployment", NeurIPS 2019 (the objective).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import register_weight
from calibrant.algorithms._weight import near_one, rows
from calibrant.algorithms.options import Ratio, options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.params import smallest_scale

FloatArray = npt.NDArray[np.float32]

_CHUNK = 1 << 15  # values that stay in cache while all candidates pass over them


@register_weight("mse")
@options
class Mse:
    """Search the scale of each channel that loses the least squared error.

    Args:
        smallest_ratio: Smallest part of the largest magnitude to try.
        steps: How many ratios the first search tries, from 1 down; a finer one tries half as many.
    """

    smallest_ratio: Ratio = 0.3
    steps: Annotated[int, Field(ge=2, le=1000)] = 24

    def __call__(self, values: npt.ArrayLike, spec: QuantSpec) -> QuantParams:
        """Return a scale for the tensor, or for each index of `spec.axis`."""
        w = rows(values, spec)
        widest = QuantParams.from_range(w.min(axis=-1), w.max(axis=-1), spec)
        w, exponent = near_one(np.atleast_2d(w))
        start = np.ldexp(np.atleast_1d(widest.scale), -exponent)  # (channels,)
        least = np.ldexp(smallest_scale(spec), -exponent)
        scale = start.copy()
        at_once = max(_CHUNK // w.shape[1], 1)
        for i in range(0, start.size, at_once):
            part = slice(i, i + at_once)
            scale[part] = self._search(w[part], start[part], least[part], spec)
        return replace(widest, scale=np.ldexp(scale, exponent).reshape(widest.scale.shape))

    def _search(
        self, w: FloatArray, start: FloatArray, smallest: FloatArray, spec: QuantSpec
    ) -> FloatArray:
        """Return the best scale of each row, (rows,)."""
        coarse = np.linspace(1.0, self.smallest_ratio, self.steps)
        step = coarse[0] - coarse[1]
        best = start.copy()
        least = np.full(start.shape, np.inf)
        for r in coarse:
            _keep_better(w, np.float32(r) * start, smallest, best, least, spec)
        centre = best.copy()
        for shift in np.linspace(-step, step, self.steps // 2 + 2)[1:-1]:
            _keep_better(w, centre + np.float32(shift) * start, smallest, best, least, spec)
        return best


def _keep_better(
    w: FloatArray,
    scale: FloatArray,
    smallest: FloatArray,
    best: FloatArray,
    least: npt.NDArray[np.float64],
    spec: QuantSpec,
) -> None:
    """Write the rows of `scale` that lose less into `best`, and their losses into `least`."""
    column = scale[:, None]
    error = w / column
    np.rint(error, out=error)
    error.clip(spec.dtype.qmin, spec.dtype.qmax, out=error)
    error *= column
    error -= w
    error *= error
    loss = error.sum(axis=1, dtype=np.float64)
    better = (loss < least) & (scale >= smallest)
    best[better] = scale[better]
    least[better] = loss[better]
