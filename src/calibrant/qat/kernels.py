"""The two loops of an activation quantizer as machine code: one pass over the values each.

In plain torch operations a quantizer passes over its values about twenty times, forward and backward, and costs more
than the convolution behind it; here it passes twice. Values are float32 on the CPU. Sums are added up block by block
in a fixed order, so they do not depend on the number of threads.

This module imports numba, which takes a second; it is itself imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["BLOCK", "backward", "forward"]

Floats = npt.NDArray[np.float32]

#: Values that are added up in one go.
BLOCK = 1 << 14


def _fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile; sums within a block may be reordered, so that they take eight values at a time."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})(
            function
        )
    except RuntimeError:  # numba found no place for its cache
        return njit(nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})(function)


@_fast
def forward(
    x: Floats, y: Floats, scale: np.float32, zero_point: np.float32, lo: np.float32, hi: np.float32
) -> None:
    """Write y = (clip(round(x / scale) + zero_point, lo, hi) - zero_point) * scale.

    Args:
        x: Values, one axis.
        y: Where the result goes, of the same length.
        scale: Units of x per step.
        zero_point: Where zero lies on the grid.
        lo: Lowest value of the grid.
        hi: Highest value of the grid.
    """
    low, high = lo - zero_point, hi - zero_point
    for i in range(x.size):
        q = np.rint(x[i] / scale)
        q = low if q < low else q
        q = high if q > high else q
        y[i] = q * scale


@_fast
def backward(
    x: Floats,
    g: Floats,
    of_x: Floats,
    sums: npt.NDArray[np.float64],
    scale: np.float32,
    ends: tuple[np.float32, np.float32],
    residues: tuple[np.float32, np.float32],
) -> None:
    """Write the gradient of x, and for each block what the gradients of both clips are made of.

        sums[b] = (sum e g, sum of g above the range, sum of g below it)

    Args:
        x: Values, one axis.
        g: Gradient of the result, of the same length.
        of_x: Where the gradient of x goes.
        sums: (blocks, 3).
        scale: Units of x per step.
        ends: Lowest and highest value that is not clipped.
        residues: round(v) - v of the lower and of the upper clip, both / scale.
    """
    low, high = ends
    at_low, at_high = residues
    for b in range(sums.shape[0]):
        start, stop = b * BLOCK, min((b + 1) * BLOCK, x.size)
        inside = np.float32(0)
        above = np.float32(0)
        below = np.float32(0)
        for i in range(start, stop):
            up, down = x[i] > high, x[i] < low
            v = x[i] / scale
            gi = g[i]
            e = np.rint(v) - v
            is_out = up or down
            of_x[i] = np.float32(0) if is_out else gi
            inside += np.float32(0) if is_out else e * gi
            above += gi if up else np.float32(0)
            below += gi if down else np.float32(0)
        sums[b, 0] = inside + above * at_high + below * at_low
        sums[b, 1] = above
        sums[b, 2] = below
