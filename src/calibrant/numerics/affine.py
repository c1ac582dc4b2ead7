"""Quantize and dequantize arrays: the two lines everything else is about.

Rounding is half to even (docs/explanation/grid.md, and ONNX QuantizeLinear).
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from calibrant.numerics.params import QuantParams

__all__ = ["dequantize", "fake_quantize", "quantize", "within"]


_T = TypeVar("_T", bound=np.generic)

#: So many values are rounded by compiled code, whose import takes a second.
_MANY = 1 << 15

#: Whole numbers below this are exact in float32.
_EXACT = 1 << 24


def _shaped(values: npt.NDArray[_T], axis: int | None, rank: int) -> npt.NDArray[_T]:
    """Give per-channel values the shape that broadcasts along `axis` of a rank `rank` array."""
    if axis is None or values.ndim == 0:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def quantize(x: npt.ArrayLike, params: QuantParams) -> npt.NDArray[np.int32]:
    """Round to the grid.

        q = clip(round(x / scale) + zero_point, qmin, qmax)

    Args:
        x: Values of any shape; (…, channels, …) where `params.axis` is set.
        params: Scale and zero point.

    Returns:
        Integers of the shape of `x`.

    Example:
        >>> from calibrant.numerics import QuantParams, QuantSpec
        >>> p = QuantParams.from_range(-128, 127, QuantSpec(symmetric=True))
        >>> quantize([-200.0, 0.5, 1.5, 300.0], p).tolist()
        [-128, 0, 2, 127]
    """
    array = np.asarray(x, dtype=np.float32)
    if array.size >= _MANY and not np.isnan(array).any():
        return _quantized(array, params)
    scale = _shaped(params.scale, params.axis, array.ndim)
    zero_point = _shaped(params.zero_point, params.axis, array.ndim)
    steps = np.rint(array / scale) + zero_point  # float32 holds every grid value exactly
    q: npt.NDArray[np.int32] = np.clip(steps, params.dtype.qmin, params.dtype.qmax).astype(
        np.int32
    )
    return q


def _quantized(array: npt.NDArray[np.float32], params: QuantParams) -> npt.NDArray[np.int32]:
    """Round many values."""
    from calibrant.numerics.grid import round_to_grid  # slow to import

    axis = params.axis
    if axis is None or params.scale.ndim == 0:
        rows: tuple[int, int, int] = (1, 1, array.size)
    else:
        axis %= array.ndim
        outer, channels = math.prod(array.shape[:axis]), array.shape[axis]
        rows = (outer, channels, array.size // (outer * channels))
    q = np.empty(array.shape, dtype=np.int32)
    round_to_grid(
        np.ascontiguousarray(array).reshape(rows),
        params.scale.reshape(-1),
        params.zero_point.reshape(-1).astype(np.float32),
        (np.float32(params.dtype.qmin), np.float32(params.dtype.qmax)),
        q.reshape(rows),
    )
    return q


def dequantize(q: npt.ArrayLike, params: QuantParams) -> npt.NDArray[np.float32]:
    """Return the values that the integers stand for: `(q - zero_point) * scale`, float32."""
    array = np.asarray(q)
    scale = _shaped(params.scale, params.axis, array.ndim)
    zero_point = _shaped(params.zero_point, params.axis, array.ndim)
    if array.dtype.kind == "i" and _are_exact(array):
        steps = array.astype(np.float32)
        if zero_point.any():
            steps -= zero_point.astype(np.float32)
        steps *= scale
        return steps
    x: npt.NDArray[np.float32] = ((array - zero_point) * scale).astype(np.float32)
    return x


def _are_exact(q: npt.NDArray[Any]) -> bool:
    """Whether float32 holds whole numbers, less a zero point, exactly."""
    if q.dtype.itemsize <= 2 or not q.size:
        return True
    return bool(q.min() > -_EXACT // 2 and q.max() < _EXACT // 2)


def fake_quantize(x: npt.ArrayLike, params: QuantParams) -> npt.NDArray[np.float32]:
    """Quantize and dequantize at once: `x` as the quantized arithmetic sees it, float32."""
    return dequantize(quantize(x, params), params)


def within(x: npt.ArrayLike, params: QuantParams) -> npt.NDArray[np.float32]:
    """Return values, those beyond the range of the grid at its end: what quantizing clips, and does not round.

    Example:
        >>> from calibrant.numerics import QuantParams, QuantSpec
        >>> p = QuantParams.from_range(-128, 127, QuantSpec(symmetric=True))
        >>> within([-200.0, 0.5, 300.0], p).tolist()
        [-128.0, 0.5, 127.0]
    """
    array = np.asarray(x, dtype=np.float32)
    scale = _shaped(params.scale, params.axis, array.ndim)
    zero_point = _shaped(params.zero_point, params.axis, array.ndim)
    low, high = ((end - zero_point) * scale for end in (params.dtype.qmin, params.dtype.qmax))
    found: npt.NDArray[np.float32] = np.clip(array, low, high).astype(np.float32)
    return found
