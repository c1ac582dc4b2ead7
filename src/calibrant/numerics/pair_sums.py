"""All sums that metrics of two arrays are made of, in two passes over them; imported on first use, for numba's sake."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["SUMS", "divergence_sums", "pair_sums"]

Array = npt.NDArray[Any]

#: What `pair_sums` returns, in order; x is a value of the first array, y of the second.
SUMS = (
    "not_finite",  # values of either that are not finite; all else is valid where this is 0 alone
    "least_x",
    "most_x",
    "least_y",
    "most_y",
    "x",
    "y",
    "xx",
    "yy",
    "xy",
    "error",  # (x - y)**2
    "absolute",  # |x - y|
    "largest",  # of |x - y|
    "relative",  # |x / y - 1| where |y| is over the least
    "largest_relative",
    "floored",  # |x - y| / max(|y|, floor)
)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use; keep the machine code for other processes where some folder can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no place for its cache
        return njit(nogil=True)(function)


@_compiled
def pair_sums(x: Array, y: Array, least: float, floor: float) -> npt.NDArray[np.float64]:
    """Return the sums of `SUMS` over two arrays of one axis (values,).

    Args:
        x: Values.
        y: Reference values.
        least: Reference magnitude from which on a relative error counts.
        floor: Reference magnitude that a floored relative error is taken against, at least.
    """
    out = np.zeros(16)
    out[1] = out[3] = math.inf
    out[2] = out[4] = -math.inf
    for i in range(x.size):
        a, b = float(x[i]), float(y[i])
        if not (math.isfinite(a) and math.isfinite(b)):
            out[0] += 1
            continue
        out[1], out[2] = min(out[1], a), max(out[2], a)
        out[3], out[4] = min(out[3], b), max(out[4], b)
        d = a - b
        m, size = abs(d), abs(b)
        out[5] += a
        out[6] += b
        out[7] += a * a
        out[8] += b * b
        out[9] += a * b
        out[10] += d * d
        out[11] += m
        out[12] = max(out[12], m)
        if size > least:
            r = abs(a / b - 1)
            out[13] += r
            out[14] = max(out[14], r)
        out[15] += m / max(size, floor)
    return out


@_compiled
def divergence_sums(
    x: Array,
    y: Array,
    ranges: tuple[float, float, float, float],
    least: float,
) -> tuple[float, float, float]:
    """Return sum p, sum q and sum p ln(p / q) of two arrays scaled to [0, 1], no value below `least`.

    Args:
        x: Values (values,), which give p.
        y: Values (values,), which give q.
        ranges: Least value and range of x, least value and range of y; an array of range 0 is not scaled.
        least: What smaller values are raised to.
    """
    low_x, range_x, low_y, range_y = ranges
    total_p = total_q = total = 0.0
    for i in range(x.size):
        p, q = float(x[i]), float(y[i])
        if range_x > 0:
            p = (p - low_x) / range_x
        if range_y > 0:
            q = (q - low_y) / range_y
        p, q = max(p, least), max(q, least)
        total_p += p
        total_q += q
        total += p * math.log(p / q)
    return total_p, total_q, total
