"""Error compensation: a second 8-bit value for what the rounding of the first leaves.

    q1 = Q8(x; s1)         r = x - s1 * q1         |r| <= s1 / 2 for x in range
    q2 = Q8(r; s2)         s2 = s1 / 254
    x ~ s1 * q1 + s2 * q2

In range the error is at most s2 / 2 = s1 / 508; 16 bits over the same range reach about s1 / 516. What was
clipped of x is clipped of r again: half a step more, so compensation does not hide clipping.

With a zero point in the first grid, `q1` above is `q1 - zero_point`; the second grid always has zero point 0,
since rounding errs to both sides.

Source: docs/how-to/layers-and-precision.md, "Error compensation".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibrant.numerics.affine import dequantize, quantize
from calibrant.numerics.dtype import IntType
from calibrant.numerics.params import QuantParams

__all__ = ["RESIDUAL_STEPS", "compensate", "residual", "residual_params"]

#: Steps of the second grid in one step of the first: half a step on either side is 127 of them.
RESIDUAL_STEPS = 254


def residual_params(params: QuantParams) -> QuantParams:
    """Return the second grid: s2 = s1 / 254, zero point 0, of the axis of the first.

    Example:
        >>> from calibrant.numerics import QuantSpec
        >>> p = QuantParams.from_range(-254, 254, QuantSpec(symmetric=True))
        >>> float(p.scale), round(float(residual_params(p).scale), 8)
        (2.0, 0.00787402)
    """
    scale = (params.scale / np.float32(RESIDUAL_STEPS)).astype(np.float32)
    return QuantParams(scale, np.zeros(scale.shape, np.int32), IntType(8), params.axis)


def residual(x: npt.ArrayLike, q: npt.ArrayLike, params: QuantParams) -> npt.NDArray[np.int32]:
    """Return q2: what x is beside its first value, on the second grid.

    Args:
        x: Values of any shape.
        q: Their first values on the grid of `params`.
        params: The first grid.

    Returns:
        Integers in [-128, 127], of the shape of `x`.
    """
    rest = np.asarray(x, dtype=np.float32) - dequantize(q, params)
    return quantize(rest, residual_params(params))


def compensate(x: npt.ArrayLike, params: QuantParams) -> npt.NDArray[np.float32]:
    """Return `x` as compensated arithmetic sees it: s1 * q1 + s2 * q2, float32."""
    q = quantize(x, params)
    both = dequantize(q, params) + dequantize(residual(x, q, params), residual_params(params))
    return both.astype(np.float32)
