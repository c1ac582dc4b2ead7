"""The loops that choosing spends its time in: look-ups in a distribution, and the losses made of them.

Imported on first use (`_distribution.kernels`), because numba takes a second to load. The float arithmetic is that
of the formulas that call these, term by term; sums run from the first term to the last.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from calibrant.numerics.compiled import compiled

__all__ = [
    "below",
    "bin_losses",
    "cell_losses",
    "keep_better_scales",
    "level_losses",
    "merge_losses",
    "running_sums",
    "shrinking_ranges",
    "spread_counts",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NEAR = 12  # bins that are looked at one after the other, before steps grow
_STEEP = 1e300  # 1 / width of a bin of no width: a threshold is below it or above it
_ROUNDING = 1e-12  # of the sum of all squares; what rounding may do to a part of it
_BLOCK = 512  # weights at a time
_FLOOR = 1e-12  # counts, in logarithms
_STRIDE = 32  # of the candidates that are worked out first, to have something to beat
_SLACK = 1e-9  # nats; what rounding may do to a bound


@compiled
def running_sums(
    lower: FloatArray,
    upper: FloatArray,
    counts: IntArray,
    count_below: FloatArray,
    sum_below: FloatArray,
    square_below: FloatArray,
) -> None:
    """Write the sums of bins that lie below each bin, see `_distribution.Distribution`.

    Args:
        lower: (bins,) lower ends, in units of x.
        upper: (bins,) upper ends.
        counts: (bins,) values in each.
        count_below: (bins + 1,) values. Written.
        sum_below: (bins + 1,) their sum. Written.
        square_below: (bins + 1,) the sum of their squares. Written.
    """
    count = total = square = 0.0
    count_below[0] = sum_below[0] = square_below[0] = 0.0
    for i in range(counts.size):
        a, b, c = lower[i], upper[i], counts[i]
        count += c
        total += c * ((a + b) / 2)
        square += c * ((a * a + a * b + b * b) / 3)
        count_below[i + 1], sum_below[i + 1], square_below[i + 1] = count, total, square


@compiled
def _find(upper: FloatArray, threshold: float, near: int) -> int:
    """Return the first bin whose upper end is not below a threshold, the last bin if none; searched from `near`."""
    n = upper.size
    if upper[near] < threshold:
        low, high, step = near, near + 1, 1
        while high < n and high <= near + _NEAR and upper[high] < threshold:
            low = high
            high += 1
        while high < n and upper[high] < threshold:
            low = high
            step *= 2
            high = low + step
        high = min(high, n)
    else:
        high, step = near, 1
        low = near - 1
        while low >= 0 and upper[low] >= threshold:
            high = low
            step *= 2
            low = high - step
        low = max(low, -1)
    while high - low > 1:  # upper[low] is below, upper[high] is not
        middle = (low + high) // 2
        if upper[middle] < threshold:
            low = middle
        else:
            high = middle
    return min(high, n - 1)


@compiled
def _part(lower: float, upper: float, threshold: float) -> float:
    """Return which part of a bin lies below a threshold."""
    slope = _STEEP if upper == lower else min(1 / (upper - lower), _STEEP)
    return min(max((threshold - lower) * slope, 0.0), 1.0)


@compiled
def below(
    lower: FloatArray,
    upper: FloatArray,
    counts: IntArray,
    count_below: FloatArray,
    sum_below: FloatArray,
    threshold: FloatArray,
    count: FloatArray,
    total: FloatArray,
) -> None:
    """Write how many values lie below each threshold, and their sum; a bin that one cuts counts in proportion.

    Args:
        lower: (bins,) as those behind it, see `_distribution.Distribution`.
        upper: (bins,).
        counts: (bins,).
        count_below: (bins + 1,).
        sum_below: (bins + 1,).
        threshold: (thresholds,) in units of x; cheapest where each is near the one before.
        count: (thresholds,). Written.
        total: (thresholds,). Written.
    """
    i = 0
    for k in range(threshold.size):
        t = threshold[k]
        i = _find(upper, t, i)
        a, b = lower[i], upper[i]
        taken = _part(a, b, t) * counts[i]
        count[k] = count_below[i] + taken
        total[k] = sum_below[i] + taken * ((a + min(max(t, a), b)) / 2)


@compiled
def level_losses(
    lower: FloatArray,
    upper: FloatArray,
    counts: IntArray,
    count_below: FloatArray,
    sum_below: FloatArray,
    square_below: FloatArray,
    scale: FloatArray,
    first: FloatArray,
    last: FloatArray,
    prune: bool,
    losses: FloatArray,
) -> None:
    """Write the sum of squared errors of some quantizers: level by level, from running sums.

    Args:
        lower: (bins,) as those behind it, see `_distribution.Distribution`.
        upper: (bins,).
        counts: (bins,).
        count_below: (bins + 1,).
        sum_below: (bins + 1,).
        square_below: (bins + 1,).
        scale: (scales,) units of x per step.
        first: (scales, grids) lowest level.
        last: (scales, grids) highest level.
        prune: Write inf where what is clipped alone costs more than the least loss before.
        losses: (scales, grids) in units of x squared. Written.
    """
    bins = counts.size
    energy = square_below[bins]
    least = math.inf
    most = int((last - first).max()) + int(first.max() - first.min()) + 1
    count, total = np.empty(most), np.empty(most)  # below the upper end of each level's cell
    for c in range(scale.size):
        s = scale[c]
        low, high = first[c].min(), last[c].max()
        if prune:
            i = _find(upper, low * s, 0)  # bins before it lie below the lowest level
            j = _find(upper, high * s, i) + 1  # bins from it on lie above the highest
            clipped = _spread(count_below, sum_below, square_below, 0, i, low * s)
            clipped += _spread(count_below, sum_below, square_below, j, bins, high * s)
            if clipped - _ROUNDING * energy > least:
                losses[c] = math.inf
                continue
        i = 0
        for k in range(int(high - low)):
            t = (low + k + 0.5) * s
            i = _find(upper, t, i)
            a, b = lower[i], upper[i]
            taken = _part(a, b, t) * counts[i]
            count[k] = count_below[i] + taken
            total[k] = sum_below[i] + taken * ((a + min(max(t, a), b)) / 2)
        for g in range(first.shape[1]):
            loss = count_before = total_before = 0.0
            skipped = int(first[c, g] - low)
            for k in range(skipped, skipped + int(last[c, g] - first[c, g])):
                v = (low + k) * s
                loss += v * (v * (count[k] - count_before) - 2 * (total[k] - total_before))
                count_before, total_before = count[k], total[k]
            v = last[c, g] * s
            above = count_below[bins] - count_before
            loss += v * (v * above - 2 * (sum_below[bins] - total_before))
            losses[c, g] = energy + loss
            least = min(least, losses[c, g])


@compiled
def _spread(
    count_below: FloatArray,
    sum_below: FloatArray,
    square_below: FloatArray,
    start: int,
    end: int,
    value: float,
) -> float:
    """Return the sum of (x - value)**2 over the values of some bins."""
    count = count_below[end] - count_below[start]
    total = sum_below[end] - sum_below[start]
    return float(square_below[end] - square_below[start] + value * (value * count - 2 * total))


@compiled
def bin_losses(
    lower: FloatArray,
    upper: FloatArray,
    counts: IntArray,
    scale: FloatArray,
    first: FloatArray,
    last: FloatArray,
    prune: bool,
    losses: FloatArray,
) -> None:
    """Write the sum of squared errors of some quantizers: bin by bin.

    With u = x / s, k the level it rounds to and d = u - k, the integral of d**2 from 0 to u is
    G(u) = k/12 + d**3/3, continuous across levels and beyond the clip. A bin from a to b of density r
    adds r s**3 (G(b/s) - G(a/s)).

    Args:
        lower: (bins,) as those behind it, see `_distribution.Distribution`.
        upper: (bins,).
        counts: (bins,).
        scale: (scales,) units of x per step.
        first: (scales, grids) lowest level.
        last: (scales, grids) highest level.
        prune: Write inf where the sum is more than the least loss before.
        losses: (scales, grids) in units of x squared. Written.
    """
    least = math.inf
    for c in range(scale.size):
        s = scale[c]
        for g in range(first.shape[1]):
            limit = least / s / s if prune else math.inf
            low, high = first[c, g], last[c, g]
            loss = 0.0  # in steps squared
            for i in range(counts.size):
                u = lower[i] / s
                k = min(max(np.rint(u), low), high)
                d = u - k
                if upper[i] > lower[i]:
                    u = upper[i] / s
                    m = min(max(np.rint(u), low), high)
                    e = u - m
                    part = (m - k) / 12 + (e * e * e - d * d * d) / 3
                    loss += counts[i] / ((upper[i] - lower[i]) / s) * part
                else:
                    loss += counts[i] * d * d
                if loss > limit:
                    break
            losses[c, g] = math.inf if loss > limit else loss * s * s
            least = min(least, losses[c, g])


@compiled
def keep_better_scales(
    weight: npt.NDArray[np.float32],
    centre: npt.NDArray[np.float32],
    start: npt.NDArray[np.float32],
    ratios: npt.NDArray[np.float32],
    ends: tuple[np.float32, np.float32],
    smallest: npt.NDArray[np.float32],
    best: npt.NDArray[np.float32],
    least: FloatArray,
) -> None:
    """Try the scales centre + ratio * start of each row of a weight, in float32 as weights are rounded.

    A sum of squared errors is given up where it is more than the least one before.

    Args:
        weight: (rows, values).
        centre: (rows,).
        start: (rows,).
        ratios: (candidates,).
        ends: Lowest and highest level.
        smallest: (rows,) scales below this are left out.
        best: (rows,) best scale so far. Written.
        least: (rows,) its sum of squared errors. Written.
    """
    lowest, highest = ends
    square = np.empty(_BLOCK, dtype=np.float32)
    for r in range(start.size):
        for c in range(ratios.size):
            s = centre[r] + ratios[c] * start[r]
            if s < smallest[r]:
                continue
            loss = 0.0
            for begin in range(0, weight.shape[1], _BLOCK):
                block = weight[r, begin : begin + _BLOCK]
                for k in range(block.size):
                    error = min(max(np.rint(block[k] / s), lowest), highest) * s - block[k]
                    square[k] = error * error
                loss += _sum_of_four(square[: block.size])
                if loss > least[r]:
                    break
            if loss < least[r]:
                best[r], least[r] = s, loss


@compiled
def _sum_of_four(values: npt.NDArray[np.float32]) -> float:
    """Return a sum that the processor adds up as four side by side."""
    a = b = c = d = 0.0
    fours = values.size // 4 * 4
    for k in range(0, fours, 4):
        a += values[k]
        b += values[k + 1]
        c += values[k + 2]
        d += values[k + 3]
    for k in range(fours, values.size):
        a += values[k]
    return (a + b) + (c + d)


@compiled
def merge_losses(
    counts: FloatArray,
    mass_below: FloatArray,
    filled_below: FloatArray,
    plogp_below: FloatArray,
    groups: int,
    losses: FloatArray,
) -> None:
    """Write KL(P || Q) of the first bins and the same bins merged, for each number of bins that has a chance.

    Each number i of bins, from `groups` on, is a sum of terms that are not negative (the log sum inequality):

        total * KL = tail(i) + sum over groups of (sum p ln p - m ln(m / f))

    with m the count of a group and f its bins that are not empty; tail(i) is what the counts above bin i cost that are
    added to the last bin in P and not in Q. So the sum is given up where it exceeds the least one so far.

    Args:
        counts: (bins,) counts of bins.
        mass_below: (bins + 1,) running sums of counts.
        filled_below: (bins + 1,) running numbers of bins that are not empty.
        plogp_below: (bins + 1,) running sums of c ln c.
        groups: How many groups bins are merged into.
        losses: (bins + 1 - groups,) nats; inf where the sum was given up. Written.
    """
    bins = counts.size
    total = mass_below[bins]
    least = math.inf
    losses[:] = -1.0
    for stride in (_STRIDE, 1):
        for c in range(losses.size - 1, -1, -stride):
            if losses[c] >= 0:
                continue
            i = groups + c
            inside, last = mass_below[i], counts[i - 1]
            tail = total - inside
            start = (groups - 1) * i // groups
            level = _level(mass_below, filled_below, start, i)
            log_last = math.log(max(level, _FLOOR)) if last > 0 else math.log(_FLOOR)
            loss = _xlogx(last + tail) - _xlogx(last) - tail * log_last
            loss += total * (math.log(max(inside, _FLOOR)) - math.log(total))
            limit = (least + _SLACK) * total
            begin = 0
            for g in range(groups):
                end = (g + 1) * i // groups
                mass = mass_below[end] - mass_below[begin]
                if mass > 0:
                    level = mass / max(filled_below[end] - filled_below[begin], 1.0)
                    spread = mass * math.log(max(level, _FLOOR))
                    loss += plogp_below[end] - plogp_below[begin] - spread
                    if loss > limit:
                        break
                begin = end
            if loss > limit:
                losses[c] = math.inf
            else:
                losses[c] = max(loss / total, 0.0)
                least = min(least, losses[c])


@compiled
def spread_counts(
    lower: FloatArray,
    upper: FloatArray,
    counts: IntArray,
    count_below: FloatArray,
    scale: FloatArray,
    first: npt.NDArray[np.int32],
    last: npt.NDArray[np.int32],
    edges: FloatArray,
    spread: FloatArray,
) -> None:
    """Write the counts of quantized values in equal bins, those of a level spread evenly over its cell.

    How many of them lie below an edge: all those of the cells before the one that the edge cuts, and of that one in
    proportion. So two look-ups for each edge are enough, however many levels there are.

    Args:
        lower: (bins,) as those behind it, see `_distribution.Distribution`.
        upper: (bins,).
        counts: (bins,).
        count_below: (bins + 1,).
        scale: (candidates,) units of x per step.
        first: (candidates,) lowest level.
        last: (candidates,) highest level.
        edges: (equal bins + 1,).
        spread: (candidates, equal bins). Written.
    """
    most = count_below[counts.size]
    for c in range(scale.size):
        s = scale[c]
        known = math.nan  # the level that `before` and `after` belong to
        before = after = done = 0.0
        i = 0
        for k in range(1, edges.size - 1):
            level = min(max(np.rint(edges[k] / s), np.float64(first[c])), np.float64(last[c]))
            start, end = (level - 0.5) * s, (level + 0.5) * s
            if level != known:
                if level <= first[c]:
                    before = 0.0
                elif level == known + 1:
                    before = after
                else:
                    i = _find(upper, start, i)
                    before = count_below[i] + _part(lower[i], upper[i], start) * counts[i]
                if level < last[c]:
                    i = _find(upper, end, i)
                    after = count_below[i] + _part(lower[i], upper[i], end) * counts[i]
                else:
                    after = most
                known = level
            start = min(max(start, edges[0]), edges[-1])
            end = min(max(end, edges[0]), edges[-1])
            part = min(max((edges[k] - start) / (end - start), 0.0), 1.0) if end > start else 0.0
            below_edge = before + part * (after - before)
            spread[c, k - 1] = below_edge - done
            done = below_edge
        spread[c, edges.size - 2] = most - done


@compiled
def shrinking_ranges(
    below: FloatArray, step: float, fewest: int, left: IntArray, right: IntArray
) -> int:
    """Write the ranges of bins that come of giving up values at either end, `activations.hfmg`.

    Each end passes bins until it has passed a step of values, but not beyond the other; the end that frees more bins
    moves.

    Args:
        below: (bins + 1,) values below each bin.
        step: Values to give up at a time.
        fewest: Ranges of more bins than so many are looked for.
        left: (bins,) first bin of each range. Written.
        right: (bins,) last bin. Written.

    Returns:
        How many ranges there are.
    """
    first, last = 0, below.size - 2
    found = 0
    while last - first > fewest:
        target = below[first] + step
        inner_first = first + 1 + np.searchsorted(below[first + 1 :], target)
        inner_first = min(inner_first, last)
        target = below[last + 1] - step
        inner_last = np.searchsorted(below[: last + 1], target, side="right") - 2
        inner_last = max(min(inner_last, last - 1), inner_first)
        if last - inner_last >= inner_first - first:
            last = inner_last
        else:
            first = inner_first
        left[found], right[found] = first, last
        found += 1
    return found


@compiled
def cell_losses(
    histogram: FloatArray,
    start: FloatArray,
    count_below: FloatArray,
    sum_below: FloatArray,
    left: IntArray,
    right: IntArray,
    cells: int,
    losses: FloatArray,
) -> None:
    """Write sum v**2 - 2 x v over all values, v the middle of the nearest of some equal cells of a range.

    Args:
        histogram: (bins,) counts.
        start: (bins,) lower ends, in bins.
        count_below: (bins + 1,) values below each bin.
        sum_below: (bins + 1,) their sum, in bins.
        left: (candidates,) first bin of each range.
        right: (candidates,) last bin.
        cells: How many cells there are.
        losses: (candidates,) in units of a bin's width squared. Written.
    """
    bins = histogram.size
    for c in range(left.size):
        cell = (right[c] - left[c] + 1) / cells
        offset = left[c] + start[0]
        loss = count = total = 0.0
        for k in range(cells):
            count_before, total_before = count, total
            if k + 1 < cells:
                end = left[c] + (k + 1) * cell
                place = int(end)
                part = end - place
                taken = part * histogram[place]
                count = count_below[place] + taken
                total = sum_below[place] + taken * (start[place] + part / 2)
            else:
                count, total = count_below[bins], sum_below[bins]
            v = offset + (k + 0.5) * cell
            loss += v * (v * (count - count_before) - 2 * (total - total_before))
        losses[c] = loss


@compiled
def _level(mass_below: FloatArray, filled_below: FloatArray, start: int, end: int) -> float:
    """Return what a bin of a group, that is not empty, counts in Q."""
    filled = filled_below[end] - filled_below[start]
    return float((mass_below[end] - mass_below[start]) / max(filled, 1.0))


@compiled
def _xlogx(x: float) -> float:
    return float(x * math.log(max(x, _FLOOR)))
