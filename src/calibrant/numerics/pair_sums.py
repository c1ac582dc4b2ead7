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
    bad = sum_x = sum_y = xx = yy = xy = error = absolute = largest = 0.0
    relative = largest_relative = floored = 0.0
    least_x = least_y = math.inf
    most_x = most_y = -math.inf
    for i in range(x.size):
        a, b = np.float64(x[i]), np.float64(y[i])
        if not (math.isfinite(a) and math.isfinite(b)):
            bad += 1
            continue
        least_x, most_x = min(least_x, a), max(most_x, a)
        least_y, most_y = min(least_y, b), max(most_y, b)
        d = a - b
        m, size = abs(d), abs(b)
        sum_x += a
        sum_y += b
        xx += a * a
        yy += b * b
        xy += a * b
        error += d * d
        absolute += m
        largest = max(largest, m)
        if size > least:
            r = abs(a / b - 1)
            relative += r
            largest_relative = max(largest_relative, r)
        floored += m / max(size, floor)
    ends = (bad, least_x, most_x, least_y, most_y, sum_x, sum_y, xx, yy, xy)
    return np.array((*ends, error, absolute, largest, relative, largest_relative, floored))


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
        a, b = np.float64(x[i]), np.float64(y[i])
        p = max((a - low_x) / range_x if range_x > 0 else a, least)
        q = max((b - low_y) / range_y if range_y > 0 else b, least)
        total_p += p
        total_q += q
        z = (p - q) / (
            p + q
        )  # ln(p / q) = 2 artanh z, by its series where z is small: most values are near
        if abs(z) < 0.1:
            w = z * z
            total += (
                2 * p * z * (1 + w * (1 / 3 + w * (1 / 5 + w * (1 / 7 + w * (1 / 9 + w / 11)))))
            )
        else:
            total += p * math.log(p / q)
    return total_p, total_q, total
