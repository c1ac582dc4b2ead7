"""Counting in place: the mutable twins of a histogram and of exact values."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from calibrant.stats.exact import ExactValues
from calibrant.stats.histogram import (
    BIN_SHIFT,
    Histogram,
    kernels,
    narrow,
)

__all__ = ["NO_VALUE", "BitCounts", "DistinctCounts", "demand_zero"]

#: Lowest and highest ordered integer before any value: outside all of them.
NO_VALUE = (1 << 40, -(1 << 40))

_FULL = (1 << 32) - 1  # what a uint32 counter holds


def demand_zero(size: int) -> npt.NDArray[np.uint32]:
    """Return `size` zeros that take memory only where they are written, 4 kB at a time.

    numpy asks the operating system for huge pages for arrays of 4 MB and more, which would make a
    histogram that touches a few parts of its range resident as a whole.
    """
    memory = mmap.mmap(-1, size * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint32)


class BitCounts:
    """Counts of float32 values by the top bits of their pattern.

    Example:
        >>> counts = BitCounts()
        >>> counts.add(np.array([0.5, -2.0, 0.5], dtype=np.float32))
        -1
        >>> counts.histogram().points()
        (array([-2. ,  0.5]), array([1, 2]))
    """

    __slots__ = ("_counts", "_flushed", "_room", "_state")

    def __init__(self) -> None:
        """Start without values."""
        self._counts = demand_zero(kernels().BINS)
        self._state = np.array([*NO_VALUE, 0, NO_VALUE[0]], dtype=np.int64)
        self._room = _FULL  # values before a counter could overflow
        self._flushed: Histogram | None = None

    @classmethod
    def of(cls, bits: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]) -> BitCounts:
        """Count values (values,) given by their bits, each as often as `counts` (values,) says."""
        new = cls()
        if not bits.size:
            return new
        total = int(counts.sum())
        if total > _FULL:
            values = bits.view(np.float32)
            order = np.argsort(values)
            new._flushed = Histogram.of(values[order], counts[order])
        else:
            np.add.at(new._counts, bits.view(np.uint32) >> 12, counts.astype(np.uint32))
            new._room -= total
        ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
        new._state[:2] = ordered.min(), ordered.max()
        magnitudes = bits & 0x7FFFFFFF
        new._state[3] = min(NO_VALUE[0], int(magnitudes[magnitudes > 0].min(initial=0x7FFFFFFF)))
        return new

    @property
    def nonfinite(self) -> int:
        """Number of values that were NaN or infinite; they are in no bin."""
        return int(self._state[2])

    def add(self, x: npt.NDArray[np.float32]) -> int:
        """Count a contiguous array of one axis.

        Returns:
            The index of the first value that is not finite; -1 when there is none.
        """
        if x.size > self._room:
            if x.size > _FULL:
                half = x.size // 2
                first, second = self.add(x[:half]), self.add(x[half:])
                return first if first >= 0 else second + half if second >= 0 else -1
            self._flushed = self.histogram()
            self._counts = demand_zero(self._counts.size)
            self._room = _FULL
        self._room -= x.size
        return int(kernels().count_bits(x.view(np.int32), self._counts, self._state, BIN_SHIFT))

    def histogram(self) -> Histogram:
        """Return the counts so far as a value."""
        histogram = Histogram.of_counts(self._counts, self._state, BIN_SHIFT)
        return histogram.merge(self._flushed) if self._flushed else histogram


class DistinctCounts:
    """Counts of each distinct float32 value, as long as they are few.

    Args:
        limit: Most distinct values.
    """

    __slots__ = ("_counts", "_keys", "_limit", "_state")

    def __init__(self, limit: int) -> None:
        """Start without values."""
        self._keys = np.zeros(kernels().SLOTS, dtype=np.int32)
        self._counts = np.zeros(kernels().SLOTS, dtype=np.int64)
        self._state = np.zeros(3, dtype=np.int64)
        self._limit = limit

    @property
    def nonfinite(self) -> int:
        """Number of values that were NaN or infinite; they are not counted as values."""
        return int(self._state[1])

    def add(self, x: npt.NDArray[np.float32]) -> tuple[int, int]:
        """Count a contiguous array of one axis, up to the first distinct value too many.

        Returns:
            The index of the first value not counted (the size, when all are), and that of the first
            value before it that is not finite (-1 when there is none).
        """
        self._state[2] = -1
        end = kernels().count_distinct(
            x.view(np.int32), self._keys, self._counts, self._state, self._limit
        )
        return int(end), int(self._state[2])

    def bins(self) -> BitCounts:
        """Return counts by bin of the same values, to go on with."""
        used = np.flatnonzero(self._counts != 0)
        return BitCounts.of(self._keys[used], self._counts[used])

    def values(self) -> ExactValues:
        """Return the counts so far as a value."""
        used = np.flatnonzero(self._counts != 0)
        values = self._keys[used].view(np.float32)
        order = np.argsort(values)
        return ExactValues(values[order], narrow(self._counts[used][order]))
