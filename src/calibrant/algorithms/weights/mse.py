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
from functools import partial
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import register_weight
from calibrant.algorithms._distribution import kernels
from calibrant.algorithms._weight import near_one, rows
from calibrant.algorithms.options import Ratio, options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.params import smallest_scale


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
        w = np.ascontiguousarray(w)
        start = np.ldexp(np.atleast_1d(widest.scale), -exponent)  # (channels,)
        coarse = np.linspace(1.0, self.smallest_ratio, self.steps)
        step = coarse[0] - coarse[1]
        best, least = start.copy(), np.full(start.shape, np.inf)
        search = partial(
            kernels().keep_better_scales,
            w,
            start=start,
            ends=(np.float32(spec.dtype.qmin), np.float32(spec.dtype.qmax)),
            smallest=np.ldexp(smallest_scale(spec), -exponent),
            best=best,
            least=least,
        )
        search(centre=np.zeros_like(start), ratios=coarse.astype(np.float32))
        finer = np.linspace(-step, step, self.steps // 2 + 2)[1:-1]
        search(centre=best.copy(), ratios=finer.astype(np.float32))
        return replace(widest, scale=np.ldexp(best, exponent).reshape(widest.scale.shape))
