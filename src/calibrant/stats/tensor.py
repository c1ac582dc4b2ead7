"""TensorStats: all that calibration remembers of a tensor, as a value that merges.

    a.merge(b) == b.merge(a)        (a.merge(b)).merge(c) == a.merge(b.merge(c))        bit for bit

so batches may come in any order, in any size, on any worker. `Accumulator` is the mutable twin for the
hot loop and ends in the same value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.errors import DataError
from calibrant.stats.channels import ChannelStats, ChannelSums
from calibrant.stats.counts import BitCounts
from calibrant.stats.exact import ExactValues
from calibrant.stats.histogram import Histogram

__all__ = ["Accumulator", "TensorStats"]


@dataclass(frozen=True, slots=True, eq=False)
class TensorStats:
    """Statistics of one tensor over all batches.

    Args:
        data: The values: a histogram, or all of them.
        nonfinite: How many values were NaN or infinite. They are in neither `data` nor `channels`.
        channels: Extremes and sums by channel, where they were asked for.

    Example:
        >>> a = TensorStats.of(np.array([1.0, 2.0], dtype=np.float32))
        >>> b = TensorStats.of(np.array([-4.0], dtype=np.float32))
        >>> both = a.merge(b)
        >>> both.count, both.min, both.max
        (3, -4.0, 2.0)
    """

    data: Histogram | ExactValues
    nonfinite: int = 0
    channels: ChannelStats | None = None

    @classmethod
    def of(cls, x: npt.ArrayLike, *, channel_axis: int | None = None) -> TensorStats:
        """Count an array into a histogram.

        Args:
            x: Values of any shape, float16, float32 or float64 (rounded to float32).
            channel_axis: Axis to keep extremes and sums for, too.

        Raises:
            DataError: Another dtype, or no such axis.
        """
        accumulator = Accumulator(channel_axis=channel_axis)
        accumulator.add(x)
        return accumulator.result()

    @classmethod
    def exact(cls, x: npt.ArrayLike, *, channel_axis: int | None = None) -> TensorStats:
        """Keep all values of an array; otherwise as `of`."""
        accumulator = Accumulator(channel_axis=channel_axis, exact=True)
        accumulator.add(x)
        return accumulator.result()

    @property
    def is_exact(self) -> bool:
        """Whether the raw values are kept."""
        return isinstance(self.data, ExactValues)

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

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return weighted values, ascending: bin middles and counts, or the values each counted once.

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
            DataError: One is exact and the other is not, or the channels do not match.
        """
        return TensorStats(
            _merge_data(self.data, other.data),
            self.nonfinite + other.nonfinite,
            self._merge_channels(other),
        )

    def _merge_channels(self, other: TensorStats) -> ChannelStats | None:
        if self.channels is not None and other.channels is not None:
            return self.channels.merge(other.channels)
        alone = self if self.channels is None else other  # the one without channels
        if alone.count + alone.nonfinite and self.channels is not other.channels:
            raise DataError("Statistics with and without channels do not merge.")
        return self.channels or other.channels

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        if not isinstance(other, TensorStats):
            return NotImplemented
        return (self.nonfinite, self.data, self.channels) == (
            other.nonfinite,
            other.data,
            other.channels,
        )

    __hash__ = None  # type: ignore[assignment]


class Accumulator:
    """Statistics under way: arrays are added in place, and `result` gives the value.

    Not safe to add to from two threads at once; different accumulators may work side by side (the
    loops release the GIL).

    Args:
        channel_axis: Axis to keep extremes and sums for; negative counts from the end.
        exact: Keep the raw values instead of a histogram.

    Example:
        >>> seen = Accumulator()
        >>> seen.add(np.ones(3, dtype=np.float32)), seen.add(np.array([2.0, np.nan]))
        (None, 1)
        >>> seen.result().count, seen.result().nonfinite
        (4, 1)
    """

    __slots__ = ("_axis", "_channels", "_counts", "_nonfinite", "_values")

    def __init__(self, *, channel_axis: int | None = None, exact: bool = False) -> None:
        """Start without values."""
        self._axis = channel_axis
        self._channels: ChannelSums | None = None
        self._counts = None if exact else BitCounts()
        self._values: list[npt.NDArray[np.float32]] = []
        self._nonfinite = 0  # of the raw values; the histogram counts its own

    def add(self, x: npt.ArrayLike) -> int | None:
        """Add an array of any shape.

        Returns:
            The flat index of its first value that is NaN or infinite, so that the caller can name the
            sample; None when all are finite.

        Raises:
            DataError: The dtype is not float16, float32 or float64, or there is no such channel axis.
        """
        array = _as_float32(x)
        if self._axis is not None:
            self._add_channels(array, self._axis)
        flat = array.reshape(-1)
        if self._counts is not None:
            first = self._counts.add(flat)
            return None if first < 0 else first
        wrong = np.flatnonzero(~np.isfinite(flat))
        self._nonfinite += wrong.size
        self._values.append(flat.copy())
        return int(wrong[0]) if wrong.size else None

    def result(self) -> TensorStats:
        """Return the statistics of all that was added so far."""
        channels = self._channels.result() if self._channels is not None else None
        if self._counts is not None:
            return TensorStats(self._counts.histogram(), self._counts.nonfinite, channels)
        return TensorStats(ExactValues.of(*self._values), self._nonfinite, channels)

    def _add_channels(self, array: npt.NDArray[np.float32], axis: int) -> None:
        if self._channels is None:
            if not -array.ndim <= axis < array.ndim:
                raise DataError(f"An array of shape {array.shape} has no channel axis {axis}.")
            axis %= array.ndim
            self._channels = ChannelSums(axis, array.shape[axis])
        self._channels.add(array)


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


def _merge_data(a: Histogram | ExactValues, b: Histogram | ExactValues) -> Histogram | ExactValues:
    if isinstance(a, Histogram) and isinstance(b, Histogram):
        return a.merge(b)
    if isinstance(a, ExactValues) and isinstance(b, ExactValues):
        return a.merge(b)
    raise DataError("Statistics of raw values and of a histogram do not merge.")
