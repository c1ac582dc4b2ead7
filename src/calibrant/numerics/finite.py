"""Numbers where a float model has some, and none where it has NaN or infinity.

A sound network may hold NaN inside: an attention row whose keys are all masked is 0 / 0, and is replaced before the
output. What such a value becomes in the quantized model says nothing, so means and distances leave its position
out. Everything here costs one test where all values are finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "as_quantized",
    "finite_mask",
    "finite_or_zero",
    "finite_pairs",
    "mean_square",
    "means_by_channel",
]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def finite_mask(x: Array) -> Mask | None:
    """Return where an array is finite; None where it is everywhere.

    The sum of squares is looked at first: it takes less time, and is finite only where all values are.
    """
    if x.dtype == np.float32 and x.flags.c_contiguous and np.isfinite(np.vdot(x, x)):
        return None
    finite = np.isfinite(x)
    return None if finite.all() else finite


def as_quantized(x: Array) -> Array:
    """Return an array with -infinity for NaN, since ONNX Runtime's quantizer makes its lowest value of it.

    ONNX leaves it open what a quantizer makes of NaN; infinity goes to the end of the range.
    """
    mask = np.isnan(x)
    return np.where(mask, -np.inf, x).astype(x.dtype, copy=False) if mask.any() else x


def finite_or_zero(x: Array) -> Array:
    """Return an array with 0 for what is not finite; the same one where everything is."""
    mask = finite_mask(x)
    return x if mask is None else np.where(mask, x, 0).astype(x.dtype, copy=False)


def finite_pairs(reference: Array, value: Array) -> tuple[Array, Array]:
    """Return two arrays of one shape at the positions where the first is finite.

    Where it is finite everywhere they come back as they are, otherwise (positions,).

    Example:
        >>> finite_pairs(np.array([1.0, np.nan, 2.0]), np.array([1.5, 7.0, 2.0]))
        (array([1., 2.]), array([1.5, 2. ]))
    """
    mask = finite_mask(np.asarray(reference))
    if mask is None:
        return reference, value
    return np.asarray(reference)[mask], np.asarray(value)[mask]


def means_by_channel(x: Array, axis: int, mask: Mask | None = None) -> npt.NDArray[np.float64]:
    """Return the mean of each channel (channels,); 0 for one without a value.

    Args:
        x: Values.
        axis: Axis of the channels; negative counts from the end.
        mask: Positions that count; those where `x` is not finite never do.
    """
    finite = finite_mask(x)
    if finite is not None:
        mask = finite if mask is None else mask & finite
    axis %= x.ndim
    if mask is None:
        if (
            axis == 1 and x.ndim > 2
        ):  # float32 over positions, which lie together, float64 over the rest
            x = x.reshape(x.shape[0], x.shape[1], -1).mean(axis=2)
        others = tuple(i for i in range(x.ndim) if i != axis)
        return np.asarray(x.mean(axis=others, dtype=np.float64))
    others = tuple(i for i in range(x.ndim) if i != axis)
    total = np.where(mask, x, 0).sum(axis=others, dtype=np.float64)
    return np.asarray(total / np.maximum(mask.sum(axis=others), 1))


def mean_square(arrays: Sequence[Array]) -> float:
    """Return the mean of the squares of all finite values; 0 where there is none."""
    total, count = 0.0, 0
    for x in arrays:
        kept, square = x, float(np.vdot(x, x))
        if not np.isfinite(square):
            mask = finite_mask(x)
            kept = x if mask is None else x[mask]
            square = float(np.vdot(kept, kept))
        total, count = total + square, count + kept.size
    return total / max(1, count)
