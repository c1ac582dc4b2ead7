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

from calibrant.algorithms._distribution import Distribution, kernels

__all__ = ["squared_errors"]

FloatArray = npt.NDArray[np.float64]

_MANY_LEVELS = 1024  # more than this, and looking at each bin is cheaper than at each level


def squared_errors(
    x: Distribution,
    scale: npt.ArrayLike,
    first: npt.ArrayLike,
    last: npt.ArrayLike,
    *,
    prune: bool = False,
) -> FloatArray:
    """Return the sum of squared errors of each candidate.

    Args:
        x: Values.
        scale: (scales,) units of x per step.
        first: (scales,) lowest level; or (scales, grids), where several grids have one scale, which takes little
            more time than one of them.
        last: The highest level, of the same shape.
        prune: Return inf for candidates that turn out worse than one before them on the way.

    Returns:
        Array of the shape of `first`, in units of x squared.
    """
    s, low, high = (np.ascontiguousarray(v, dtype=np.float64) for v in (scale, first, last))
    losses = np.empty(low.shape)
    grids = low.reshape(s.size, -1), high.reshape(s.size, -1), prune, losses.reshape(s.size, -1)
    if (high - low).max() > _MANY_LEVELS:
        kernels().bin_losses(*x.bins, s, *grids)
    else:
        kernels().level_losses(*x.bins, *x.sums, x.square_below, s, *grids)
    return losses
