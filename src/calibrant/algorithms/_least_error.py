"""The search for the grid of least squared error, as one compiled loop (`activations.mse` says what it does).

A tensor with a scale for each channel asks for hundreds of these searches, each of some two hundred candidates; so the
whole search is machine code, and a candidate is given up as soon as it is worse than the best before it. What goes into
each level of each candidate is worked out once for each bin (`_table`). Imported on first use
(`_distribution.kernels`), because numba takes a second to load.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from calibrant.algorithms._kernels import _STEEP, _spread, bin_losses
from calibrant.numerics.compiled import compiled

__all__ = ["ENDS", "best_grid"]

#: Which ends of the range a ratio is of: both, the upper one, the lower one.
ENDS = (0, 1, 2)

FloatArray = npt.NDArray[np.float64]
#: lower, upper, counts, count_below, sum_below and square_below of a `_distribution.Distribution`
Values = tuple[FloatArray, FloatArray, npt.NDArray[np.int64], FloatArray, FloatArray, FloatArray]
#: Values, counts as floats, 1 / the width of each bin, for each of `_CELLS` equal cells of the range the first bin that
#: may lie in it, where the first cell begins, and how many cells there are for a unit of x
Table = tuple[Values, FloatArray, FloatArray, npt.NDArray[np.int32], float, float]
#: lowest and highest level, whether the zero point is 0, the smallest scale, and whether one below it becomes 1
Grid = tuple[int, int, bool, float, bool]

_UPPER, _LOWER = 1, 2  # what a ratio is of; 0 is both ends
_FINER = 12  # candidates of each finer search
_TURNS = 2  # finer searches, of grids that are not polished; one is enough for those that are
_POLISHED = 255  # steps of a grid; of more, there is nothing to gain
_SHIFTS = (0, -3, -2, -1, 1, 2, 3)  # of the zero point, in the last search; the first wins a tie
_REACHES = (0.05, 0.008)  # of the scale, on either side
_MANY_LEVELS = 1024  # more than this, and looking at each bin is cheaper than at each level
_ROUNDING = 1e-12  # of the sum of all squares; what rounding may do to a part of it
_TIE = 1e-14  # of the sum of all squares; losses that are nearer than this are equal
_CELLS = 4096  # of a look-up table of bins
_MARGIN = 1e-6  # of a cell, for what rounding does to the place of a threshold
_NEAR = 12  # bins that are looked at one after the other, before halves are
_EACH = 16  # levels between two looks at whether a candidate still has a chance


@compiled
def best_grid(
    x: Values,
    low: float,
    high: float,
    coarse: FloatArray,
    grid: Grid,
    of: tuple[int, int, int],
) -> tuple[np.float32, int]:
    """Return the scale and the zero point that lose least.

    Args:
        x: Values.
        low: The lowest of them, or 0.
        high: The highest, or 0.
        coarse: Ratios of the range that are tried first, 1 the first of them.
        grid: The grid.
        of: `ENDS`; as an argument, since numba compiles a function anew for each constant.
    """
    symmetric = grid[2]
    table = _table(x)
    both = _best_ratio(table, low, high, coarse, of[0], grid)
    if symmetric or low == 0 or high == 0:
        lo, hi = _ends(both, low, high, of[0], symmetric)
        widest = np.float64(math.inf) if symmetric else np.float64(_grid_of(low, high, grid)[0])
        one_sided: tuple[np.float32, int] = _polished(table, lo, hi, widest, grid)
        return one_sided
    ratios = np.empty(coarse.size + 1)
    ratios[0] = both
    for k in range(coarse.size):  # numba takes seconds to compile the assignment of a slice
        ratios[k + 1] = coarse[k]
    up = _best_ratio(table, low * both, high, ratios, of[1], grid)
    down = _best_ratio(table, low, high * up, ratios, of[2], grid)
    found: tuple[np.float32, int] = _polished(table, low * down, high * up, math.inf, grid)
    return found


@compiled
def _table(x: Values) -> Table:
    """Return what is asked of each bin again and again, and where to look for the bin of a threshold."""
    lower, upper, counts = x[0], x[1], x[2]
    bins = counts.size
    as_float, slope = np.empty(bins), np.empty(bins)
    for i in range(bins):
        as_float[i] = counts[i]
        slope[i] = _STEEP if upper[i] == lower[i] else min(1 / (upper[i] - lower[i]), _STEEP)
    near = np.empty(_CELLS + 1, dtype=np.int32)
    first, width = lower[0], upper[bins - 1] - lower[0]
    i = 0
    for cell in range(_CELLS + 1):
        start = first + (cell - _MARGIN) * (width / _CELLS)
        while i < bins - 1 and upper[i] < start:
            i += 1
        near[cell] = i
    return x, as_float, slope, near, first, _CELLS / width if width > 0 else 0.0


@compiled
def _place(
    upper: FloatArray,
    near: npt.NDArray[np.int32],
    first: float,
    a_unit: float,
    threshold: float,
    after: int,
) -> int:
    """Return the first bin whose upper end is not below a threshold, the last bin if none; none is before `after`."""
    cell = int(min(max((threshold - first) * a_unit, 0.0), np.float64(_CELLS)))
    i, last = max(after, near[cell]), upper.size - 1
    end = min(i + _NEAR, last)
    while i < end and upper[i] < threshold:
        i += 1
    if i == last or upper[i] >= threshold:
        return int(i)
    while last - i > 1:  # upper[i] is below; upper[last] is not, or it is the last
        middle = (i + last) // 2
        if upper[middle] < threshold:
            i = middle
        else:
            last = middle
    return int(last)


@compiled
def _best_ratio(
    table: Table, low: float, high: float, coarse: FloatArray, of: int, grid: Grid
) -> float:
    """Return the ratio of least loss: the best of the coarse ones, then of finer ones around it."""
    turns = _TURNS if grid[1] - grid[0] > _POLISHED else 1
    tried = np.empty(coarse.size + turns * _FINER)
    for k in range(coarse.size):
        tried[k] = coarse[k]
    best, least, end = 0, math.inf, coarse.size
    for turn in range(turns + 1):
        start = 0
        if turn:
            left, right = 0.0, math.inf
            for k in range(end):  # the neighbours of the best
                if tried[k] < tried[best]:
                    left = max(left, tried[k])
                elif tried[k] > tried[best]:
                    right = min(right, tried[k])
            left = left if left > 0 else tried[best] * 0.9
            right = right if right < math.inf else min(tried[best] * 1.1, 1.0)
            for k in range(_FINER):
                tried[end + k] = left + (k + 1) * ((right - left) / (_FINER + 1))
            start, end = end, end + _FINER
        for k in range(start, end):
            lo, hi = _ends(tried[k], low, high, of, grid[2])
            scale, zero_point = _grid_of(lo, hi, grid)
            loss = _loss(table, scale, grid[0] - zero_point, grid[1] - zero_point, least)
            if loss < least:
                best, least = k, loss
    return float(tried[best])


@compiled
def _ends(ratio: float, low: float, high: float, of: int, symmetric: bool) -> tuple[float, float]:
    """Return the range that a ratio stands for."""
    if of == _UPPER:
        return low, high * ratio
    if of == _LOWER:
        return low * ratio, high
    if symmetric:
        bound = max(-low, high)
        return max(low, -ratio * bound), min(high, ratio * bound)
    return ratio * low, ratio * high


@compiled
def _grid_of(low: float, high: float, grid: Grid) -> tuple[np.float32, int]:
    """Return the scale and the zero point of a range, as `QuantParams.from_range` makes them."""
    first, last, symmetric, smallest, to_one = grid
    lo, hi = np.float32(low), np.float32(high)
    if symmetric:
        levels = np.float32(-first) if abs(lo) > abs(hi) else np.float32(last)
        scale = np.float32(max(abs(lo), abs(hi)) / levels)
        if scale == 0 or (to_one and scale < smallest):
            return np.float32(1), 0
        return max(scale, np.float32(smallest)), 0
    lo, hi = min(lo, np.float32(0)), max(hi, np.float32(0))
    steps = np.float32(last - first)
    scale = np.float32(np.float32(hi - lo) / steps)
    if not np.isfinite(scale):
        scale = np.float32(np.float32(hi / steps) - np.float32(lo / steps))
    if scale == 0 or (to_one and scale < smallest):
        return np.float32(1), first
    scale = max(scale, np.float32(smallest))
    return scale, int(np.rint(np.float32(np.float32(first) - np.float32(lo / scale))))


@compiled
def _loss(table: Table, scale: np.float32, first: int, last: int, least: float) -> float:
    """Return the sum of squared errors, `_loss.squared_errors`; infinity where it is found to be more than `least`."""
    x, as_float, slope, near, start, a_unit = table
    lower, upper, counts, count_below, sum_below, square_below = x
    s = np.float64(scale)
    bins = counts.size
    energy = square_below[bins]
    slack = _ROUNDING * energy
    if last - first > _MANY_LEVELS:
        return float(_loss_by_bins(lower, upper, counts, s, first, last, least))
    # bins before i lie below the lowest level, those from j on above the highest
    i = _place(upper, near, start, a_unit, first * s, 0)
    j = _place(upper, near, start, a_unit, last * s, i) + 1
    above = _spread(count_below, sum_below, square_below, j, bins, last * s)
    clipped = _spread(count_below, sum_below, square_below, 0, i, first * s) + above
    if clipped - slack > least:
        return math.inf
    i = 0
    loss = count_before = total_before = 0.0
    for k in range(last - first):
        t = (first + k + 0.5) * s
        i = _place(upper, near, start, a_unit, t, i)
        a, b = lower[i], upper[i]
        taken = min(max((t - a) * slope[i], 0.0), 1.0) * as_float[i]
        count = count_below[i] + taken
        total = sum_below[i] + taken * ((a + min(max(t, a), b)) / 2)
        v = (first + k) * s
        loss += v * (v * (count - count_before) - 2 * (total - total_before))
        count_before, total_before = count, total
        if k % _EACH == 0 and square_below[i] + loss + above - slack > least:
            return math.inf
    v = last * s
    rest = count_below[bins] - count_before
    loss += v * (v * rest - 2 * (sum_below[bins] - total_before))
    return float(energy + loss)


@compiled
def _loss_by_bins(
    lower: FloatArray,
    upper: FloatArray,
    counts: npt.NDArray[np.int64],
    s: float,
    first: int,
    last: int,
    least: float,
) -> float:
    """Return the same from each bin, `_kernels.bin_losses`."""
    losses = np.empty((1, 1))
    ends = np.empty((2, 1, 1))
    ends[0, 0, 0], ends[1, 0, 0] = first, last
    bin_losses(lower, upper, counts, np.full(1, s), ends[0], ends[1], False, losses)
    return float(losses[0, 0]) if losses[0, 0] <= least else math.inf


@compiled
def _polished(
    table: Table, low: float, high: float, widest: float, grid: Grid
) -> tuple[np.float32, int]:
    """Return the best of the scales and zero points around those of a range; at 16 bits there is nothing to gain.

    Along an end of the range the loss is jagged, because the zero point jumps. At one zero point it is smooth along
    the scale. Where all values lie on one side of zero, the zero point stays at the end of the grid, and no scale is
    above `widest`: the range then stays inside the values, and what clips them before may vanish into the quantizer.
    Grids of one scale differ in their ends alone, so that their losses cost little more than one of them.
    """
    first, last, symmetric, smallest = grid[0], grid[1], grid[2], grid[3]
    scale, zero_point = _grid_of(low, high, grid)
    if last - first > _POLISHED:
        return scale, zero_point
    shifts = 1 if symmetric or widest < math.inf else len(_SHIFTS)
    zero_points = np.empty(shifts, dtype=np.int64)
    least = math.inf
    for reach in _REACHES:
        for g in range(shifts):
            zero_points[g] = min(max(zero_point + _SHIFTS[g], first), last)
        start, best, least = scale, 0, math.inf
        for c in range(_FINER + 1):
            factor = 1.0  # as it is wins a tie
            if c:
                factor = (1 - reach) + (c - 1) * (((1 + reach) - (1 - reach)) / (_FINER - 1))
            s = np.float32(np.float64(start) * factor)
            s = start if s < smallest or s > widest else s
            loss, g = _least_of_grids(table, s, zero_points, first, last, least)
            if loss < least:
                scale, best, least = s, g, loss
        zero_point = zero_points[best]
    return scale, zero_point


@compiled
def _least_of_grids(
    table: Table,
    scale: np.float32,
    zero_points: npt.NDArray[np.int64],
    qmin: int,
    qmax: int,
    least: float,
) -> tuple[float, int]:
    """Return the least loss of the grids of one scale, and which it is; infinity where none is below `least`."""
    x, as_float, slope, near, start, a_unit = table
    lower, upper, counts, count_below, sum_below, square_below = x
    s = np.float64(scale)
    bins = counts.size
    energy = square_below[bins]
    least_zero = most_zero = zero_points[0]
    for zero_point in zero_points:
        least_zero, most_zero = min(least_zero, zero_point), max(most_zero, zero_point)
    low, high = qmin - most_zero, qmax - least_zero
    i = _place(upper, near, start, a_unit, low * s, 0)
    j = _place(upper, near, start, a_unit, high * s, i) + 1
    clipped = _spread(count_below, sum_below, square_below, 0, i, low * s)
    clipped += _spread(count_below, sum_below, square_below, j, bins, high * s)
    if clipped - _ROUNDING * energy > least:
        return math.inf, 0
    levels = high - low
    count, total, inner = np.empty(levels), np.empty(levels), np.empty(levels)
    i = 0
    for k in range(levels):  # below the end of each level's cell, and what cells lose up to it
        t = (low + k + 0.5) * s
        i = _place(upper, near, start, a_unit, t, i)
        a, b = lower[i], upper[i]
        taken = min(max((t - a) * slope[i], 0.0), 1.0) * as_float[i]
        count[k] = count_below[i] + taken
        total[k] = sum_below[i] + taken * ((a + min(max(t, a), b)) / 2)
        inner[k] = 0.0
        if k:
            v = (low + k) * s
            cell = v * (v * (count[k] - count[k - 1]) - 2 * (total[k] - total[k - 1]))
            inner[k] = inner[k - 1] + cell
    found, best = math.inf, 0
    for g in range(zero_points.size):
        first, last = qmin - zero_points[g], qmax - zero_points[g]
        k, m = first - low, last - low - 1
        v, w = first * s, last * s
        loss = v * (v * count[k] - 2 * total[k]) + (inner[m] - inner[k])
        rest = count_below[bins] - count[m]
        loss += w * (w * rest - 2 * (sum_below[bins] - total[m]))
        if energy + loss < found - _TIE * energy:
            found, best = energy + loss, g
    return found, best
