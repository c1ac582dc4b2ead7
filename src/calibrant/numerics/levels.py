"""Weights that keep a few levels of their grid: which level a value takes, and what they take to store."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["index_bits", "indices", "nearest_level", "packed_bytes"]


def nearest_level(values: npt.NDArray[np.int32], levels: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return each value's nearest level; of two that are as near, the one of smaller magnitude.

    Args:
        values: Integers of the 8-bit grid, of any shape.
        levels: The levels, in any order.

    Example:
        >>> nearest_level(np.array([-3, -1, 1, 3, 90], dtype=np.int32), (-4, -2, 0, 4)).tolist()
        [-2, 0, 0, 4, 4]
    """
    by_magnitude = np.array(sorted(levels, key=lambda c: (abs(c), c)), dtype=np.int32)
    grid = np.arange(-128, 128)
    distance = np.abs(grid[:, None] - by_magnitude[None, :])  # (256, levels)
    table = by_magnitude[distance.argmin(axis=1)]  # argmin takes the first, smaller one of equals
    found: npt.NDArray[np.int32] = table[values + 128]
    return found


def indices(values: npt.NDArray[np.int32], levels: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the place of each value in sorted levels; every value is one of them.

    Example:
        >>> indices(np.array([0, 4, -2], dtype=np.int32), (-2, 0, 4)).tolist()
        [1, 2, 0]
    """
    return np.searchsorted(np.array(levels), values)


def index_bits(levels: tuple[int, ...]) -> int:
    """Return the bits of an index into levels.

    Example:
        >>> index_bits(tuple(range(16))), index_bits(tuple(range(32)))
        (4, 5)
    """
    return max(1, (len(levels) - 1).bit_length())


def packed_bytes(count: int, levels: tuple[int, ...]) -> int:
    """Return what `count` weights take as packed indices, with a byte for each level.

    Example:
        >>> packed_bytes(1000, tuple(range(16)))
        516
    """
    return -(-count * index_bits(levels) // 8) + len(levels)
