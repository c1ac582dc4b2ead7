"""Optimal codebooks of integers: weighted k-means in one dimension, solved exactly.

Given how often (or how heavily) each value of the 8-bit grid occurs, find k integers c_1 < … < c_k that
minimise

    loss = sum over q of mass[q] * min over i of (q - c_i)**2

In one dimension the values between two neighbouring centres go to one of the two, so the loss is a sum over
neighbours, and the best last centre follows from the best centres before it:

    gap(a, b)   = sum over a < q < b of mass[q] * min(q - a, b - q)**2
    best(1, b)  = sum over q < b of mass[q] * (b - q)**2
    best(j, b)  = min over a < b of best(j - 1, a) + gap(a, b)
    loss        = min over b of best(k, b) + sum over q > b of mass[q] * (q - b)**2

That is O(k * 256**2). A centre that has to be there forbids the gaps that pass over it.

Source: docs/explanation/algorithms/weight-nuq.md; Wang and Song, "Ckmeans.1d.dp: Optimal k-means Clustering in One
Dimension by Dynamic Programming", The R Journal 3/2, 2011 (the recurrence, there over clusters).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["GRID", "codebook", "occurrences"]

#: The values of the 8-bit grid, in order.
GRID = np.arange(-128, 128)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def occurrences(
    values: npt.NDArray[np.int32], weights: FloatArray | None = None
) -> npt.NDArray[np.float64]:
    """Return how often each value of the grid occurs.

    Args:
        values: Integers of the 8-bit grid, of any shape.
        weights: What an occurrence counts, of that shape; None for 1.

    Returns:
        Mass of each value of `GRID` (256,).
    """
    flat = weights if weights is None else np.ascontiguousarray(weights).reshape(-1)
    return np.bincount(values.reshape(-1) + 128, flat, minlength=256).astype(np.float64)


def codebook(mass: npt.ArrayLike, size: int, *, keep: int | None = None) -> tuple[int, ...]:
    """Return the integers that lose the least squared error, sorted.

    Where fewer values have mass than there are levels, these values are the codebook, filled up with the
    unused integers nearest to them (of those that are as near, the one of smaller magnitude first).
    Of codebooks with the same loss, the one with the lowest last centre is returned, then the one with
    the lowest last but one, and so on.

    Args:
        mass: Mass of each value of the grid (256,), not negative.
        size: Number of levels, 2 to 256.
        keep: A value that has to be a level.

    Example:
        >>> mass = np.zeros(256)
        >>> mass[128 + np.array([0, 1, 100])] = 5, 4, 1
        >>> codebook(mass, 2)
        (0, 100)
        >>> codebook(mass, 4)
        (-1, 0, 1, 100)
    """
    m = np.asarray(mass, dtype=np.float64)  # (256,)
    needed = m > 0
    if keep is not None:
        needed[keep + 128] = True
    used = GRID[needed]
    if used.size <= size:
        return _filled(used, size)
    return tuple(int(c) for c in GRID[_centres(m, size, None if keep is None else keep + 128)])


def _filled(used: IntArray, size: int) -> tuple[int, ...]:
    """Add the integers nearest to those that are used."""
    levels = [int(q) for q in used] or [0]
    taken = np.array(levels)
    free = [int(q) for q in GRID if q not in taken]
    free.sort(key=lambda q: (int(np.abs(taken - q).min()), abs(q), q))
    return tuple(sorted(levels + free[: size - len(levels)]))


def _centres(m: FloatArray, size: int, keep: int | None) -> IntArray:
    """Return the places of the best centres in the grid, (size,)."""
    gap, before, behind = _losses(m)
    if keep is not None:
        place = np.arange(m.size)
        gap[(place[:, None] < keep) & (place[None, :] > keep)] = np.inf
        before[place > keep] = np.inf
        behind[place < keep] = np.inf
    best = before
    previous = []
    for _ in range(size - 1):
        ways = best[:, None] + gap  # (last centre, next centre)
        previous.append(ways.argmin(axis=0))
        best = ways.min(axis=0)
    last = int((best + behind).argmin())
    centres = [last]
    for came_from in reversed(previous):
        centres.append(int(came_from[centres[-1]]))
    return np.array(centres[::-1])


def _losses(m: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return what is lost between two neighbouring centres, before the first, and behind the last.

    Returns:
        gap (256, 256), infinite where the second centre is not above the first; before (256,);
        behind (256,).
    """
    a, b = _pairs()
    size = m.size
    gap = np.full((size, size), np.inf)
    sums = np.zeros((3, size + 1))  # of mass, mass * q and mass * q**2 below each place
    sums[:, 1:] = np.cumsum([m, m * GRID, m * GRID**2], axis=1)

    def lost(first: IntArray, end: IntArray, centre: IntArray) -> FloatArray:
        """Loss of the values from place `first` up to `end` (exclusive) with their centre."""
        s0, s1, s2 = sums[:, end] - sums[:, first]
        loss: FloatArray = s2 - 2 * centre * s1 + centre * centre * s0
        return loss

    middle = (a + b) // 2 + 1  # values below it are as near to a, or nearer
    gap[a, b] = lost(a, middle, GRID[a]) + lost(middle, b, GRID[b])
    place = np.arange(size)
    before = lost(np.zeros_like(place), place, GRID)
    behind = lost(place, np.full_like(place, size), GRID)
    return gap, before, behind


@cache
def _pairs() -> tuple[IntArray, IntArray]:
    """Return the places (a, b) of every two centres, a < b."""
    a, b = np.triu_indices(GRID.size, 1)
    return a, b
