"""Counts over float bit patterns: a histogram that needs no range and merges exactly.

The bin of a value is the top bits of its own float32 pattern: sign, exponent and the first 11 bits of the
mantissa. Each power of two is cut into 2048 bins of equal width, so the width is at most 1/2048 of the
value everywhere: an outlier of 1e4 times the bulk costs the bulk no resolution, and adding two histograms
is adding counts. Only occupied bins are kept, some 50,000 for a tensor of a network.

Source: the layout is that of HdrHistogram (G. Tene), taken from the number format itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from calibrant.errors import DataError

__all__ = [
    "BIN_SHIFT",
    "Counts",
    "Histogram",
    "floats_of_order",
    "kernels",
    "merge_counts",
    "narrow",
]

K = TypeVar("K", np.int32, np.float32)
IntArray = npt.NDArray[np.int64]
#: How often values occurred: uint32, int64 where one is too large for that.
Counts = npt.NDArray[np.uint32] | npt.NDArray[np.int64]

#: Bits of a float32 pattern below its bin.
BIN_SHIFT = 12


@cache
def kernels() -> ModuleType:
    """Import the compiled loops, on first use because numba takes a second."""
    from calibrant.stats import kernels as module

    return module


def merge_counts(
    keys: npt.NDArray[K], counts: Counts, other_keys: npt.NDArray[K], other_counts: Counts
) -> tuple[npt.NDArray[K], Counts]:
    """Return keys that ascend, each once, and their counts, of two such pairs of arrays."""
    both = np.empty(keys.size + other_keys.size, dtype=keys.dtype)
    totals = np.empty(both.size, dtype=np.int64)
    mine, others = counts.astype(np.int64), other_counts.astype(np.int64)
    n = kernels().merge_counts(keys, mine, other_keys, others, both, totals)
    return both[:n].copy(), narrow(totals[:n])


def narrow(counts: IntArray) -> Counts:
    """Return counts in half the memory, where none is too large for that."""
    fits = not counts.size or counts.max() < 1 << 32
    return counts.astype(np.uint32) if fits else counts.copy()


def floats_of_order(order: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the float32 values whose magnitudes have the bits abs(order), with the signs of order."""
    magnitude = np.abs(order).astype(np.uint32).view(np.float32)
    return np.where(order < 0, -magnitude, magnitude)


def _first_of_each(keys: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Return where each key begins in keys (1 or more) that ascend."""
    return np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often values fell into each occupied bin, with the exact extremes.

    Args:
        keys: (bins,) int32, ascending as the values do: the top bits of the magnitude, with the sign of
            the value. 0 holds zeros and subnormals.
        counts: (bins,) above 0: uint32, int64 where one is too large for that.
        min: Lowest value; inf when there is none.
        max: Highest value; -inf when there is none.
        shift: Bits of a float32 pattern below its bin: each more halves the bins of a power of two.
    """

    keys: npt.NDArray[np.int32]
    counts: Counts
    min: float
    max: float
    shift: int = BIN_SHIFT

    @classmethod
    def of(
        cls,
        values: npt.NDArray[np.float32],
        counts: Counts,
        shift: int = BIN_SHIFT,
    ) -> Histogram:
        """Count values (values,) that ascend, each as often as `counts` (values,) says."""
        if not values.size:
            none = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
            return cls(*none, np.inf, -np.inf, shift)
        bits = values.view(np.int32)
        magnitude = (bits & 0x7FFFFFFF) >> shift
        magnitude[magnitude < (1 << 23) >> shift] = 0
        keys = np.where(bits < 0, -magnitude, magnitude)
        first = _first_of_each(keys)
        totals = np.add.reduceat(counts.astype(np.int64), first)
        return cls(keys[first], narrow(totals), float(values[0]), float(values[-1]), shift)

    @classmethod
    def of_counts(
        cls, counts: npt.NDArray[np.uint32], state: npt.NDArray[np.int64], shift: int
    ) -> Histogram:
        """Return counts (2**(32 - shift),) and their state (4,) as `kernels.count_bits` writes them, as a value."""
        if state[0] > state[1]:
            none = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
            return cls(*none, np.inf, -np.inf, shift)
        low, high = floats_of_order(state[:2])
        subnormal = (1 << 23) >> shift
        first = min(max(int(state[3]) >> shift, subnormal), counts.size // 2)
        last = int(np.abs(state[:2]).max() >> shift) + 1
        n = kernels().count_filled(counts, subnormal, first, last)
        # as large as it has to be: what is cut off later leaves holes in the heap
        keys, found = np.empty(n + 1, dtype=np.int32), np.empty(n + 1, dtype=np.uint32)
        kernels().filled_bins(counts, subnormal, first, last, keys, found)
        return cls(keys[:n], found[:n], float(low), float(high), shift)

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both sets of values; exact, in any order.

        Raises:
            DataError: The bins differ.
        """
        if self.shift != other.shift:
            raise DataError("Histograms of bins of different width do not merge.")
        keys, counts = merge_counts(self.keys, self.counts, other.keys, other.counts)
        low, high = min(self.min, other.min), max(self.max, other.max)
        return Histogram(keys, counts, low, high, self.shift)

    def edges(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the lower and upper end of each bin, ascending, within [min, max].

        The bin of zero has both ends 0.

        Returns:
            Two arrays (bins,) in float64.
        """
        lower, upper = np.empty((2, self.keys.size))
        kernels().bin_edges(self.keys, self.shift, self.min, self.max, lower, upper)
        return lower, upper

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the middle of each bin, ascending, and its count.

        Zero is 0.0 exactly. The first and the last bin are cut off at the extremes before the middle is
        taken, so a single value, or a constant, is returned as it is.

        Returns:
            Two arrays (bins,): values in float64, counts in int64.
        """
        lower, upper = self.edges()
        return (lower + upper) / 2, self.counts.astype(np.int64)

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        if not isinstance(other, Histogram):
            return NotImplemented
        return (
            (self.min, self.max, self.shift) == (other.min, other.max, other.shift)
            and np.array_equal(self.keys, other.keys)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]
