"""The hot loops: counts of bins and extremes, counts of distinct values, joining counts.

Everything else in calibrant is numpy. This module imports numba, which takes a second, so it is itself
imported on first use (`stats.tensor`); the machine code is cached between processes.

How a float32 value is binned: the top 20 of its bits are its bin (sign, 8 bits of exponent, 11 bits of
mantissa), so a bin is 1/2048 of a power of two wide, and counting is a shift and an addition. The counts
are 2**20 uint32, of which a tensor touches some 200 to 400 kB; the operating system supplies no memory for
the rest (`counts.demand_zero`), which makes a sparse table of our own unnecessary and a third slower.

Zeros and subnormals (exponent 0) count as zero. After a ReLU half the values are zero, and adding to one
and the same address again and again waits for the last store each time (0.8 ns a value instead of 0.35);
so the position in the array picks one of 8 addresses for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.numerics.compiled import compiled

__all__ = [
    "BINS",
    "SLOTS",
    "bin_edges",
    "count_bits",
    "count_channels",
    "count_distinct",
    "count_filled",
    "filled_bins",
    "merge_counts",
]

BINS = 1 << 20  # bins of a float32 by its top 20 bits
SLOTS = 1 << 16  # of the hash table of distinct values

_BLOCK = 4096  # values; 16 kB, so the second loop over a block reads from the first-level cache

_HASH = np.uint64(
    2654435769
)  # 2**32 over the golden ratio (Knuth, The Art of Computer Programming, 6.4)
_HASH_SHIFT = np.uint64(32 - 16)
_SLOT = np.uint64(SLOTS - 1)
_U32 = np.uint64(0xFFFFFFFF)
_U7 = np.uint64(7)
_EXPONENT = np.uint64(0x7F800000)


@compiled
def count_bits(
    bits: npt.NDArray[np.int32],
    counts: npt.NDArray[np.uint32],
    state: npt.NDArray[np.int64],
    shift: int,
) -> int:
    """Add values to the counts.

    Args:
        bits: (values,) float32 values seen as int32.
        counts: (2**(32 - shift),) how often each bin occurred. Written.
        state: (4,) lowest and highest finite value as ordered integers (the bits of the magnitude, with
            the value's sign), how many values are not finite, and the least magnitude above 0 as bits.
            Written.
        shift: Bits of a pattern below its bin, at most 20.

    Returns:
        The index of the first value that is not finite; -1 when there is none.
    """
    n = bits.size
    drop = np.uint64(shift)
    first = -1
    for start in range(0, n, _BLOCK):
        # a slice counts from 0, which lets the compiler vectorise
        block = bits[start : start + _BLOCK]
        # Bit patterns order like the values among positive numbers and against them among negative ones;
        # three extremes of the bare integers hold the answer, at four or eight values an instruction.
        top = np.int32(-0x80000000)  # highest, signed: the highest value where any is positive
        bottom = np.int32(0x7FFFFFFF)  # lowest, signed: of the negative ones, the nearest to 0
        far = np.uint32(0)  # highest, unsigned: the lowest value where any is negative
        near = np.uint32(0xFFFFFFFF)  # least magnitude above 0, less 1: zero wraps to the top
        for k in range(block.size):
            b = block[k]
            top = max(top, b)
            bottom = min(bottom, b)
            far = max(far, np.uint32(b))
            near = min(near, np.uint32(b & 0x7FFFFFFF) - np.uint32(1))
        if top < 0x7F800000 and far < 0xFF800000:
            # where all are negative, or none is:
            high = -np.int64(bottom & 0x7FFFFFFF) if top < 0 else np.int64(top)
            low = np.int64(bottom) if bottom >= 0 else -np.int64(far & 0x7FFFFFFF)
            state[0] = min(state[0], low)
            state[1] = max(state[1], high)
            state[3] = min(state[3], np.int64(near) + 1)
            for j in range(np.uint64(block.size)):
                u = np.uint64(np.uint32(block[j]))
                spread = _U7 if (u & _EXPONENT) == 0 else np.uint64(0)
                counts[(u >> drop) ^ (j & spread)] += np.uint32(1)
        else:  # the slow road, taken by blocks that hold NaN or Inf
            for k in range(block.size):
                b = block[k]
                magnitude = np.int64(b & 0x7FFFFFFF)
                if magnitude >= 0x7F800000:
                    state[2] += 1
                    if first < 0:
                        first = start + k
                    continue
                order = -magnitude if b < 0 else magnitude
                state[0] = min(state[0], order)
                state[1] = max(state[1], order)
                if magnitude > 0:
                    state[3] = min(state[3], magnitude)
                counts[np.uint64(np.uint32(b)) >> drop] += np.uint32(1)
    return first


@compiled
def count_distinct(
    bits: npt.NDArray[np.int32],
    keys: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
    state: npt.NDArray[np.int64],
    limit: int,
) -> int:
    """Count each distinct value by itself; stop at one too many.

    A hash table with open addresses, at most half full. Discrete data (an image, a mask, mostly zeros)
    stays in cache at 2 ns a value; other data ends here after some `limit` values.

    Args:
        bits: (values,) float32 values seen as int32.
        keys: (SLOTS,) bits of the value in each slot. Written.
        counts: (SLOTS,) how often it occurred; 0 where a slot is free. Written.
        state: (3,) distinct values so far, how many values are not finite, and the index of the first
            of these (-1: none). Written.
        limit: Most distinct values, below SLOTS.

    Returns:
        The index of the first value not counted; the number of values when all are.
    """
    for k in range(bits.size):
        b = bits[k]
        magnitude = b & 0x7FFFFFFF
        if magnitude == 0:
            b = np.int32(0)  # -0.0 is 0.0
        elif magnitude >= 0x7F800000:
            state[1] += 1
            if state[2] < 0:
                state[2] = k
            continue
        slot = ((np.uint64(np.uint32(b)) * _HASH) & _U32) >> _HASH_SHIFT
        while counts[slot] != 0 and keys[slot] != b:
            slot = (slot + np.uint64(1)) & _SLOT
        if counts[slot] == 0:
            if state[0] == limit:
                return k
            keys[slot] = b
            state[0] += 1
        counts[slot] += 1
    return bits.size


@compiled
def count_channels(
    bits: npt.NDArray[np.int32],
    counts: npt.NDArray[np.uint32],
    state: npt.NDArray[np.int64],
    shift: int,
) -> None:
    """Add values to the counts of their channels, as `count_bits` does for one.

    Args:
        bits: (outer, channels, inner) float32 values seen as int32.
        counts: (channels, 2**(32 - shift)). Written.
        state: (channels, 4). Written.
        shift: Bits of a pattern below its bin.
    """
    outer, channels, _ = bits.shape
    for o in range(outer):
        for c in range(channels):
            count_bits(bits[o, c], counts[c], state[c], shift)


@compiled
def merge_counts(
    keys: npt.NDArray[Any],
    counts: npt.NDArray[np.int64],
    other_keys: npt.NDArray[Any],
    other_counts: npt.NDArray[np.int64],
    both: npt.NDArray[Any],
    totals: npt.NDArray[np.int64],
) -> int:
    """Join two lists of counts, whose keys ascend.

    Args:
        keys: (some,) each once.
        counts: (some,) how often each occurred.
        other_keys: (others,) each once.
        other_counts: (others,).
        both: (some + others,) the keys of both, ascending, each once. Written.
        totals: (some + others,) how often each occurred. Written.

    Returns:
        How many keys there are.
    """
    i = j = n = 0
    while i < keys.size or j < other_keys.size:
        if j == other_keys.size or (i < keys.size and keys[i] < other_keys[j]):
            both[n], totals[n] = keys[i], counts[i]
            i += 1
        elif i == keys.size or other_keys[j] < keys[i]:
            both[n], totals[n] = other_keys[j], other_counts[j]
            j += 1
        else:
            both[n], totals[n] = keys[i], counts[i] + other_counts[j]
            i += 1
            j += 1
        n += 1
    return n


@compiled
def count_filled(counts: npt.NDArray[np.uint32], subnormal: int, first: int, last: int) -> int:
    """Return how many bins hold values; arguments are those of `filled_bins`."""
    half = counts.size // 2
    n = 0
    for i in range(first, last):
        n += (counts[half + i] != 0) + (counts[i] != 0)
    zero = False
    for i in range(subnormal):
        zero |= (counts[half + i] != 0) | (counts[i] != 0)
    return n + int(zero)


@compiled
def filled_bins(
    counts: npt.NDArray[np.uint32],
    subnormal: int,
    first: int,
    last: int,
    keys: npt.NDArray[np.int32],
    found: npt.NDArray[np.uint32],
) -> None:
    """Write the bins that hold values, ascending as the values do, see `histogram.Histogram`.

    Args:
        counts: (bins,) of `count_bits`; magnitudes ascend in both halves.
        subnormal: Bins of each half that count as zero.
        first: First bin of each half above them that is looked at: the rest is not in memory.
        last: The bin behind the last one.
        keys: (filled + 1,), the last of no meaning. Written.
        found: (filled + 1,) how many values each holds. Written.
    """
    half = counts.size // 2
    n = 0
    for i in range(last - 1, first - 1, -1):  # without a branch, which nobody could foretell
        keys[n], found[n] = -i, counts[half + i]
        n += counts[half + i] != 0
    zeros = np.uint32(0)
    for i in range(subnormal):
        zeros += counts[i] + counts[half + i]
    keys[n], found[n] = 0, zeros
    n += zeros != 0
    for i in range(first, last):
        keys[n], found[n] = i, counts[i]
        n += counts[i] != 0


@compiled
def bin_edges(
    keys: npt.NDArray[np.int32],
    shift: int,
    least: float,
    most: float,
    lower: npt.NDArray[np.float64],
    upper: npt.NDArray[np.float64],
) -> None:
    """Write the ends of bins, see `histogram.Histogram`.

    Args:
        keys: (bins,) ascending.
        shift: Bits of a pattern below its bin.
        least: Lowest value; the first bin begins there.
        most: Highest value; the last bin ends there.
        lower: (bins,) lower ends, in units of x. Written.
        upper: (bins,) upper ends. Written.
    """
    bins = keys.size
    near, far = np.empty(bins, dtype=np.int32), np.empty(bins, dtype=np.int32)  # from zero
    for i in range(bins):
        near[i] = abs(keys[i]) << shift
        far[i] = (abs(keys[i]) + 1) << shift if keys[i] else 0
    ends, beyond = near.view(np.float32), far.view(np.float32)
    for i in range(bins):
        lower[i] = ends[i] if keys[i] >= 0 else -beyond[i]
        upper[i] = beyond[i] if keys[i] >= 0 else -ends[i]
    if bins:  # those between lie within
        last = bins - 1
        lower[0], upper[0] = min(max(lower[0], least), most), min(max(upper[0], least), most)
        lower[last] = min(max(lower[last], least), most)
        upper[last] = min(max(upper[last], least), most)
