"""Scales of weights for processors that add two products in 16 bits.

x86-64 CPUs with AVX2 or AVX-512 but without VNNI multiply unsigned activations by signed weights in pairs, and each
pair is added up in 16 bits with saturation:

    -32768 <= x1 w1 + x2 w2 <= 32767,        x in [0, 255],  w in [-128, 127]

Two neighbours of the same sign that add up to more than 128 can break that, and then the result is wrong without a
word. So the scale of such an output channel grows until no pair can:

    s' = r s,   r the least with   |w1 + w2| <= 128   for all pairs of one sign

Where no pair of large weights meets, the scale stays as it is. A weight of 7 bits would always fit, at the price of
one bit for every channel.

Source: Intel Intrinsics Guide, `_mm256_maddubs_epi16`; Intel, "Lower numerical precision deep learning inference and
training", 2018 (the saturation of pairs, and VNNI, which has none).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from calibrant.numerics.params import QuantParams

__all__ = ["LARGEST_INPUT", "LEARNED_STEPS", "PAIR_LIMIT", "fit_pairs", "pair_sums"]

#: What two neighbours of one sign may add up to [steps]: 255 * 128 < 2**15 <= 255 * 129.
PAIR_LIMIT = 128

#: What learning the rounding of two neighbours may add to their sum: a step each.
LEARNED_STEPS = 2

#: The largest input, as it is stored unsigned.
LARGEST_INPUT = 255

#: Least growth of a scale in one round of the search.
_LEAST_GROWTH = 1 + 2**-8


def pair_sums(q: npt.ArrayLike, axis: int | None, contracted: int) -> npt.NDArray[np.int64]:
    """Return the largest magnitude that two neighbours of one sign add up to.

    Neighbours lie along the contracted axis, first with second, third with fourth, and so on. Where their number is
    odd, the last one stands alone or meets the first of the next position, as kernels differ.

    Args:
        q: Weights on their grid, of any shape.
        axis: Axis of the output channels; None for one number for all.
        contracted: Axis that is summed over.

    Returns:
        (channels,), or () without an axis [steps].

    Example:
        >>> pair_sums([[100, 50, 90, -90], [1, 2, 3, 4]], axis=0, contracted=1).tolist()
        [150, 7]
    """
    array = np.asarray(q, dtype=np.int32)  # 255 * (127 + 127) is far below its ends
    if axis is None:
        array, axis, contracted = array[None], 0, contracted % array.ndim + 1
    array = np.moveaxis(array, (axis, contracted), (0, -1))  # (out, positions…, in)
    worst = _worst(array)
    if array.shape[-1] % 2:
        worst = np.maximum(worst, _worst(array.reshape(array.shape[0], -1)))
    return worst if np.ndim(q) == array.ndim else worst.reshape(())


def _worst(array: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    if array.shape[-1] % 2:
        array = np.concatenate([array, np.zeros_like(array[..., :1])], axis=-1)
    first, second = array[..., 0::2], array[..., 1::2]  # (out, positions…, pairs)
    up = np.maximum(first, 0)
    up += np.maximum(second, 0)
    down = np.minimum(first, 0)
    down += np.minimum(second, 0)
    apart = tuple(range(1, array.ndim))
    highest, lowest = up.max(axis=apart, initial=0), down.min(axis=apart, initial=0)
    worst: npt.NDArray[np.int64] = np.maximum(highest, -lowest).astype(np.int64)
    return worst


def fit_pairs(
    params: QuantParams,
    round_to: Callable[[QuantParams], npt.NDArray[np.int32]],
    contracted: int,
    *,
    limit: int = PAIR_LIMIT,
    inputs: npt.ArrayLike = LARGEST_INPUT,
) -> QuantParams:
    """Let scales of a weight grow until all pairs fit.

    Args:
        params: What its algorithm chose.
        round_to: Puts the weight on a grid.
        contracted: Axis that is summed over.
        limit: What two neighbours may add up to [steps], where both meet the largest input.
        inputs: The largest number that each weight is multiplied with, in [0, 255], of a shape that broadcasts.
    """
    most, factor = limit * LARGEST_INPUT, np.asarray(inputs, dtype=np.int32)
    while True:
        sums = pair_sums(round_to(params) * factor, params.axis, contracted)
        if (sums <= most).all():
            return params
        growth = np.where(sums > most, np.maximum(sums / most, _LEAST_GROWTH), 1.0)
        params = replace(params, scale=(params.scale * growth).astype(np.float32))
