"""Rounding of many values to a grid, in one pass over them; imported on first use, for numba's sake."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.numerics.compiled import compiled

__all__ = ["round_to_grid"]


@compiled
def round_to_grid(
    x: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.float32],
    ends: tuple[np.float32, np.float32],
    out: npt.NDArray[Any],
) -> None:
    """Write clip(round(x / scale) + zero_point) of each value.

    Args:
        x: Values without NaN (outer, channels, inner).
        scale: (channels,).
        zero_point: (channels,), whole numbers that float32 holds exactly, as it does the ends.
        ends: Lowest and highest level.
        out: Integers (outer, channels, inner). Written.
    """
    lowest, highest = ends
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            s, z = scale[c], zero_point[c]
            for k in range(x.shape[2]):
                out[i, c, k] = min(max(np.rint(x[i, c, k] / s) + z, lowest), highest)
