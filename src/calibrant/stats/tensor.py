"""TensorStats: all that calibration remembers of a tensor, as a value that merges.

    a.merge(b) == b.merge(a)        (a.merge(b)).merge(c) == a.merge(b.merge(c))        bit for bit

so batches may come in any order, in any size, on any worker. `Accumulator` is the mutable twin for the
hot loop and ends in the same value.

Up to `FEW` distinct values are kept as they are in any case. They take less memory than their histogram
would; and where they are few, or where the data is discrete (an image, a mask, mostly zeros), the values
of a bin are not spread over it. How many there are is a property of the data, not of the road there, so
merging stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from calibrant.errors import DataError
from calibrant.stats.counts import BitCounts, DistinctCounts
from calibrant.stats.exact import ExactValues
from calibrant.stats.histogram import Histogram
from calibrant.stats.per_channel import ChannelCounts, ChannelDistributions

__all__ = ["FEW", "Accumulator", "TensorStats"]

T = TypeVar("T")

#: Most distinct values that are kept without being asked to; 400 kB.
FEW = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class TensorStats:
    """Statistics of one tensor over all batches.

    Args:
        data: The values: a histogram, or all of them.
        keep: Keep all of them however many there are.
        nonfinite: How many values were NaN or infinite. They are not in `data`.
        by_channel: Distributions by channel, one entry for each axis they were asked for.
        token: Stands for this object where it is to be told from others without being kept alive.

    Example:
        >>> a = TensorStats.of(np.array([1.0, 2.0], dtype=np.float32))
        >>> b = TensorStats.of(np.array([-4.0], dtype=np.float32))
        >>> both = a.merge(b)
        >>> both.count, both.min, both.max
        (3, -4.0, 2.0)
    """

    data: Histogram | ExactValues
    keep: bool = False
    nonfinite: int = 0
    by_channel: tuple[ChannelDistributions, ...] = ()
    token: object = field(default_factory=object, init=False, repr=False)
    _derived: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, x: npt.ArrayLike, *, by_channel: Sequence[int] = ()) -> TensorStats:
        """Count an array into a histogram, or by distinct value where these are few.

        Args:
            x: Values of any shape, float16, float32 or float64 (rounded to float32).
            by_channel: Axes to keep distributions by channel for, too.

        Raises:
            DataError: Another dtype, or no such axis.
        """
        accumulator = Accumulator(by_channel=by_channel)
        accumulator.add(x)
        return accumulator.result()

    @classmethod
    def exact(cls, x: npt.ArrayLike, *, by_channel: Sequence[int] = ()) -> TensorStats:
        """Keep all values of an array however many there are; otherwise as `of`."""
        accumulator = Accumulator(by_channel=by_channel, exact=True)
        accumulator.add(x)
        return accumulator.result()

    @property
    def is_exact(self) -> bool:
        """Whether the values themselves are at hand: asked for with `exact`, or few."""
        return isinstance(self.data, ExactValues)

    @property
    def values(self) -> npt.NDArray[np.float32] | None:
        """(values,) the distinct values in ascending order, where they are at hand."""
        return self.data.values if isinstance(self.data, ExactValues) else None

    @property
    def count(self) -> int:
        """Number of finite values."""
        return self.data.count

    @property
    def min(self) -> float:
        """Lowest finite value, exact; inf when there is none."""
        return self.data.min

    @property
    def max(self) -> float:
        """Highest finite value, exact; -inf when there is none."""
        return self.data.max

    @property
    def whole(self) -> TensorStats:
        """The statistics without those by channel."""
        return replace(self, by_channel=())

    @property
    def finite(self) -> TensorStats:
        """The statistics of the finite values alone, as if there had been no others."""
        return replace(self, nonfinite=0) if self.nonfinite else self

    def of_channels(self, axis: int) -> tuple[TensorStats, ...]:
        """Return the statistics of each channel along an axis that was asked for.

        Raises:
            DataError: It was not.
        """
        for found in self.by_channel:
            if found.axis == axis:
                return tuple(TensorStats(d, self.keep) for d in found.data)
        raise DataError(f"No distributions were kept for the channels of axis {axis}.")

    def derived(self, key: Hashable, compute: Callable[[TensorStats], T]) -> T:
        """Return `compute(self)`; it is worked out once for a key, and kept as long as this object.

        For what several algorithms, or one with several options, ask of the same statistics. Nothing may
        change the result.
        """
        if key not in self._derived:
            self._derived[key] = compute(self)
        found: T = self._derived[key]
        return found

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return weighted values, ascending: bin middles, or the distinct values, and their counts.

        Returns:
            Two arrays (points,): values in float64, counts in int64.
        """
        return self.data.points()

    def edges(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the lower and upper end of the bin of each point; in exact mode both are the point."""
        return self.data.edges()

    def merge(self, other: TensorStats) -> TensorStats:
        """Return the statistics of both sets of values.

        Raises:
            DataError: One keeps raw values and the other does not, or the channels do not match.
        """
        if self.keep != other.keep:
            raise DataError("Statistics that keep raw values and others that do not do not merge.")
        return TensorStats(
            _merge_data(self.data, other.data, keep=self.keep),
            self.keep,
            self.nonfinite + other.nonfinite,
            self._merge_by_channel(other),
        )

    def _merge_by_channel(self, other: TensorStats) -> tuple[ChannelDistributions, ...]:
        mine, others = self.by_channel, other.by_channel
        if [d.axis for d in mine] != [d.axis for d in others]:
            alone = other if len(mine) > len(others) else self
            if alone.count or alone.nonfinite or alone.by_channel:
                raise DataError("Statistics by channel of different axes do not merge.")
            return mine or others
        return tuple(a.merge(b, keep=self.keep) for a, b in zip(mine, others, strict=True))

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        if not isinstance(other, TensorStats):
            return NotImplemented
        mine = (self.keep, self.nonfinite, self.data, self.by_channel)
        return mine == (other.keep, other.nonfinite, other.data, other.by_channel)

    __hash__ = None  # type: ignore[assignment]


class Accumulator:
    """Statistics under way: arrays are added in place, and `result` gives the value.

    Not safe to add to from two threads at once; different accumulators may work side by side (the
    loops release the GIL).

    Args:
        by_channel: Axes to keep distributions by channel for, from 0.
        exact: Keep the raw values instead of a histogram.

    Example:
        >>> seen = Accumulator()
        >>> seen.add(np.ones(3, dtype=np.float32)), seen.add(np.array([2.0, np.nan]))
        (None, 1)
        >>> seen.result().count, seen.result().nonfinite
        (4, 1)
    """

    __slots__ = (
        "_axes",
        "_bins",
        "_by_channel",
        "_few",
        "_kept",
        "_nonfinite",
    )

    def __init__(self, *, by_channel: Sequence[int] = (), exact: bool = False) -> None:
        """Start without values."""
        self._axes = tuple(sorted(set(by_channel)))
        self._by_channel: list[ChannelCounts] = []
        self._nonfinite = 0  # of what went elsewhere than into the counts in use
        self._kept: list[npt.NDArray[np.float32]] | None = [] if exact else None
        self._few: DistinctCounts | None = None  # made for the first array: it takes 768 kB
        self._bins: BitCounts | None = None  # instead of the few, once they are many

    def add(self, x: npt.ArrayLike) -> int | None:
        """Add an array of any shape.

        Returns:
            The flat index of its first value that is NaN or infinite, so that the caller can name the
            sample; None when all are finite.

        Raises:
            DataError: The dtype is not float16, float32 or float64, or there is no such channel axis.
        """
        array = _as_float32(x)
        if self._axes:
            self._add_by_channel(array)
        flat = array.reshape(-1)
        if self._bins is not None:
            first = self._bins.add(flat)
        elif self._kept is not None:
            first = self._keep(self._kept, flat)
        else:
            if self._few is None:
                self._few = DistinctCounts(FEW)
            first = self._add_few(self._few, flat)
        return None if first < 0 else first

    def result(self) -> TensorStats:
        """Return the statistics of all that was added so far."""
        by_channel = tuple(c.result() for c in self._by_channel)
        counted = self._bins or self._few
        nonfinite = self._nonfinite + (counted.nonfinite if counted else 0)
        if self._bins is not None:
            return TensorStats(self._bins.histogram(), False, nonfinite, by_channel)
        if self._few is not None:
            return TensorStats(self._few.values(), False, nonfinite, by_channel)
        kept = ExactValues.of(*(self._kept or ()))
        return TensorStats(kept, self._kept is not None, nonfinite, by_channel)

    def _add_few(self, few: DistinctCounts, flat: npt.NDArray[np.float32]) -> int:
        end, first = few.add(flat)
        if end == flat.size:
            return first
        self._nonfinite += few.nonfinite
        self._bins, self._few = few.bins(), None
        later = self._bins.add(flat[end:])
        return first if first >= 0 or later < 0 else end + later

    def _keep(self, kept: list[npt.NDArray[np.float32]], flat: npt.NDArray[np.float32]) -> int:
        wrong = np.flatnonzero(~np.isfinite(flat))
        self._nonfinite += wrong.size
        kept.append(np.delete(flat, wrong))  # a copy: the buffer may be reused
        return int(wrong[0]) if wrong.size else -1

    def _add_by_channel(self, array: npt.NDArray[np.float32]) -> None:
        if not self._by_channel:
            if self._axes[-1] >= array.ndim:
                raise DataError(
                    f"An array of shape {array.shape} has no channel axis {self._axes[-1]}."
                )
            self._by_channel = [
                ChannelCounts(axis, array.shape[axis], exact=self._kept is not None)
                for axis in self._axes
            ]
        for counts in self._by_channel:
            counts.add(array)


def _as_float32(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return contiguous float32 values; refuse what is not a floating point number."""
    array = np.asarray(x)
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise DataError(
            f"Values of type {array.dtype} have no statistics; float16, float32 and float64 have."
        )
    with np.errstate(
        over="ignore"
    ):  # what float32 cannot hold becomes Inf, and is counted as such
        return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)


def _merge_data(
    a: Histogram | ExactValues, b: Histogram | ExactValues, *, keep: bool
) -> Histogram | ExactValues:
    if isinstance(a, ExactValues) and isinstance(b, ExactValues):
        both = a.merge(b)
        return both if keep or both.values.size <= FEW else both.histogram()
    histograms = [d if isinstance(d, Histogram) else d.histogram() for d in (a, b)]
    return histograms[0].merge(histograms[1])
