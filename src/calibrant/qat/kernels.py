"""The loops of quantizers as machine code: one pass over the values forward, and one backward.

In plain torch operations a quantizer passes over its values about twenty times, forward and backward, and costs more
than the convolution behind it; here it passes twice. Values are float32 on the CPU. Sums are added up block by block
in a fixed order, so they do not depend on the number of threads. A loop that adds up writes nothing else: where a loop
does both, the compiler asks at run time whether arrays may overlap, adds up in another order where one lies right behind
the other in memory, and a run that is repeated differs in the last digit. What they compute is what `functional` and the plain
functions of `quantizers.fake` and `quantizers.lsq` compute: these are their oracles.

This module imports numba, which takes a second; it is itself imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from calibrant.numerics.params import SCALE_EPS

__all__ = ["BLOCK", "backward", "forward", "grid", "weight_backward", "weight_forward"]

Floats = npt.NDArray[np.float32]

_EPS = np.float32(SCALE_EPS)

#: Values that are added up in one go.
BLOCK = 1 << 14


def _exact(function: Callable[..., Any], fastmath: set[str] | bool = False) -> Callable[..., Any]:
    """Compile."""
    asked: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return njit(cache=True, **asked)(function)
    except RuntimeError:  # numba found no place for its cache
        return njit(**asked)(function)


def _fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile; sums within a block may be reordered, so that they take eight values at a time."""
    return _exact(function, {"reassoc", "nsz"})


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
        for i in range(start, stop):
            gi = g[i]
            is_out = x[i] > high or x[i] < low
            of_x[i] = np.float32(0) if is_out else gi
        inside = np.float32(0)
        above = np.float32(0)
        below = np.float32(0)
        for i in range(start, stop):
            up, down = x[i] > high, x[i] < low
            v = x[i] / scale
            gi = g[i]
            e = np.rint(v) - v
            is_out = up or down
            inside += np.float32(0) if is_out else e * gi
            above += gi if up else np.float32(0)
            below += gi if down else np.float32(0)
        sums[b, 0] = inside + above * at_high + below * at_low
        sums[b, 1] = above
        sums[b, 2] = below


@_exact
def grid(
    ends: Floats,
    last: Floats,
    unit: np.float32,
    asked: tuple[np.float32, np.float32, bool, bool],
    found: Floats,
) -> None:
    """Write the clips that are used, scale and zero point: `functional.usable_clips` and `functional.grid_of`.

    Args:
        ends: Both clips over `unit`, the upper one first.
        last: The clips that were used last, the upper one first.
        unit: What clips are measured in.
        asked: Lowest and highest value of the grid, whether the zero point is 0, whether the lower clip is.
        found: Where upper clip, lower clip, scale and zero point go.
    """
    qmin, qmax, symmetric, fixed_min = asked
    none, one = np.float32(0), np.float32(1)
    high = ends[0] * unit
    low = none if fixed_min else ends[1] * unit
    empty = not (high - low > _EPS)
    used_high = last[0] if empty or high < none else high
    used_low = last[1] if empty or (low > none and not high < none) else low
    found[0], found[1] = used_high, used_low
    if symmetric:
        above, below = abs(used_high), abs(used_low)
        levels = qmax + one if below > above else qmax
        scale = max(above, below) / levels
        found[2], found[3] = (one if scale < _EPS else scale), none
        return
    above = max(used_high, none)
    below = min(used_low, none)
    scale = (above - below) / (qmax - qmin)
    tiny = scale < _EPS
    found[2] = one if tiny else scale
    found[3] = qmin if tiny else np.rint(qmin - below / scale)


@_fast
def weight_forward(
    v: Floats, scale: Floats, deployed: Floats, lo: np.float32, hi: np.float32, y: Floats
) -> None:
    """Write y = clip(round(v / scale), lo, hi) * deployed, row by row.

    Args:
        v: Weights over their size (rows, n).
        scale: Units of v per step (rows,).
        deployed: Units of y per step (rows,).
        lo: Lowest value of the grid.
        hi: Highest value of the grid.
        y: Where the result goes (rows, n).
    """
    for c in range(v.shape[0]):
        s, d = scale[c], deployed[c]
        for i in range(v.shape[1]):
            q = np.rint(v[c, i] / s)
            q = lo if q < lo else q
            q = hi if q > hi else q
            y[c, i] = q * d


@_fast
def weight_backward(
    v: Floats,
    g: Floats,
    of: tuple[Floats, Floats],
    ends: tuple[np.float32, np.float32],
    results: tuple[Floats, Floats, Floats],
) -> None:
    """Write the gradients of v, of its scale, and of the gain, row by row.

    Args:
        v: Weights over their size (rows, n).
        g: Gradient of the result (rows, n).
        of: Scale and gain (rows,).
        ends: Lowest and highest value of the grid.
        results: Where the gradients of v (rows, n), scale (rows,) and gain (rows,) go.
    """
    lo, hi = ends
    for c in range(v.shape[0]):
        s, gain = of[0][c], of[1][c]
        for i in range(v.shape[1]):
            t = v[c, i] / s
            gi = g[c, i]
            out = t < lo or t > hi
            results[0][c, i] = np.float32(0) if out else gi * gain
        of_scale, of_gain = np.float32(0), np.float32(0)
        for i in range(v.shape[1]):
            t = v[c, i] / s
            out = t < lo or t > hi
            q = np.rint(t)
            q = lo if q < lo else q
            q = hi if q > hi else q
            gi = g[c, i]
            of_gain += gi * q
            of_scale += gi * (q if out else q - t)
        results[1][c] = of_scale * gain
        results[2][c] = of_gain * s
