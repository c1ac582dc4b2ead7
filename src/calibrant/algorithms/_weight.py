"""What weight algorithms share: checks, and the view of a weight as rows of one scale each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibrant.errors import ConfigValueError, DataError
from calibrant.numerics import QuantSpec

__all__ = ["near_one", "rows"]


def rows(values: npt.ArrayLike, spec: QuantSpec) -> npt.NDArray[np.float32]:
    """Return a weight as (channels, rest), the axis `spec.axis` first; (rest,) per tensor.

    Raises:
        ConfigValueError: The spec is asymmetric (weights have zero point 0), or has no such axis.
        DataError: No values, not floating point numbers, or some are NaN or infinite.
    """
    w = np.asarray(values)
    if not spec.symmetric:
        raise ConfigValueError(
            "A weight is to be quantized asymmetrically; weights are symmetric (zero point 0)."
        )
    if spec.axis is not None and spec.axis >= w.ndim:
        raise ConfigValueError(
            f"axis is {spec.axis}; a weight of shape {w.shape} has no such axis."
        )
    if w.dtype.kind != "f" or w.dtype.itemsize > 8:
        raise DataError(f"A weight of type {w.dtype} is not quantizable; float16 and float32 are.")
    if not w.size:
        raise DataError(f"A weight of shape {w.shape} has no values.")
    w = w.astype(np.float32, copy=False)
    if not np.isfinite(w).all():
        raise DataError("The weight holds NaN or Inf.")
    if spec.axis is None:
        return w.reshape(-1)
    return np.moveaxis(w, spec.axis, 0).reshape(w.shape[spec.axis], -1)


def near_one(
    w: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Bring each row near 1 by a power of two, which is exact.

    Returns:
        w * 2**-exponent (channels, rest), whose largest magnitude lies in [0.5, 1), and the exponents (channels,).

    Example:
        >>> x, e = near_one(np.array([[3.0, -6.0], [0.0, 0.0]], np.float32))
        >>> x.tolist(), e.tolist()
        ([[0.375, -0.75], [0.0, 0.0]], [3, 0])
    """
    exponent = np.frexp(np.maximum(w.max(axis=1), -w.min(axis=1)))[1]
    with np.errstate(over="ignore"):
        factor = np.ldexp(np.float32(1), -exponent)
    if not np.isfinite(factor).all():  # of a row below 2**-127
        return np.ldexp(w, -exponent[:, None]), exponent
    return w * factor[:, None], exponent
