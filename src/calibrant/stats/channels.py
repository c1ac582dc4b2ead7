"""Extremes and exact sums by channel, for equalisation and bias correction.

Floating point sums depend on the order of the additions. These do not: a float32 is an integer times a
power of two, and the integers are added up as they are, in limbs (`kernels.sum_channels`). So the result
is the same bit for bit whatever the batch size, the order and the number of workers, and it is the
correctly rounded sum besides. It costs 2 to 3 ns a value, paid only where channels are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.errors import DataError
from calibrant.stats.counts import NO_VALUE, kernels
from calibrant.stats.histogram import floats_of_order

__all__ = ["ChannelStats", "ChannelSums"]

IntArray = npt.NDArray[np.int64]

_SUM_RADIX, _SUM_UNIT = 8, 149  # bits between two limbs; the first counts 2**-149
_SQUARE_RADIX, _SQUARE_UNIT = 16, 298
_ROOM = 1 << 30  # values that a limb takes before it must be carried


@dataclass(frozen=True, slots=True, eq=False)
class ChannelStats:
    """What is known of each channel of a tensor.

    Args:
        axis: Axis the channels lie on.
        min: (channels,) lowest value, float32; inf where there is none.
        max: (channels,) highest value, float32; -inf where there is none.
        count: (channels,) number of finite values, int64.
        sum_limbs: (channels, 32) exact sum in units of 2**(8*i - 149), carried.
        square_limbs: (channels, 34) exact sum of squares in units of 2**(16*i - 298), carried.
    """

    axis: int
    min: npt.NDArray[np.float32]
    max: npt.NDArray[np.float32]
    count: IntArray
    sum_limbs: IntArray
    square_limbs: IntArray

    @property
    def sum(self) -> npt.NDArray[np.float64]:
        """(channels,) correctly rounded sum, in units of x."""
        return _to_float(self.sum_limbs, _SUM_RADIX, _SUM_UNIT)

    @property
    def sum_squares(self) -> npt.NDArray[np.float64]:
        """(channels,) correctly rounded sum of squares, in units of x squared."""
        return _to_float(self.square_limbs, _SQUARE_RADIX, _SQUARE_UNIT)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """(channels,) mean, in units of x; 0 where a channel has no values."""
        return self.sum / np.maximum(self.count, 1)

    def merge(self, other: ChannelStats) -> ChannelStats:
        """Return the statistics of both sets of values; exact, in any order.

        Raises:
            DataError: The axes or the numbers of channels differ.
        """
        if (self.axis, self.min.shape) != (other.axis, other.min.shape):
            raise DataError(
                f"Channel statistics of {self.min.size} channels on axis {self.axis} and of "
                f"{other.min.size} channels on axis {other.axis} do not merge."
            )
        return ChannelStats(
            self.axis,
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
            self.count + other.count,
            _carry(self.sum_limbs + other.sum_limbs, _SUM_RADIX),
            _carry(self.square_limbs + other.square_limbs, _SQUARE_RADIX),
        )

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        if not isinstance(other, ChannelStats):
            return NotImplemented
        return self.axis == other.axis and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("min", "max", "count", "sum_limbs", "square_limbs")
        )

    __hash__ = None  # type: ignore[assignment]


class ChannelSums:
    """The mutable twin of `ChannelStats`, which batches are added to.

    Args:
        axis: Axis the channels lie on, from 0.
        channels: How many there are.
    """

    __slots__ = ("_counts", "_extremes", "_room", "_squares", "_sums", "axis")

    def __init__(self, axis: int, channels: int) -> None:
        """Start without values."""
        self.axis = axis
        self._extremes = np.tile(np.array(NO_VALUE, dtype=np.int64), (channels, 1))
        self._counts = np.zeros(channels, dtype=np.int64)
        self._sums = np.zeros((channels, kernels().SUM_LIMBS), dtype=np.int64)
        self._squares = np.zeros((channels, kernels().SQUARE_LIMBS), dtype=np.int64)
        self._room = _ROOM

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._counts.size

    def add(self, x: npt.NDArray[np.float32]) -> None:
        """Add a contiguous array whose axis `axis` has the channels; NaN and Inf are left out.

        Raises:
            DataError: The array has no such axis, or another number of channels.
        """
        if x.ndim <= self.axis or x.shape[self.axis] != self.channels:
            raise DataError(
                f"A batch of shape {x.shape} has no {self.channels} channels on axis {self.axis}, "
                "as the batches before it had."
            )
        if x.size == 0:
            return
        outer = int(np.prod(x.shape[: self.axis]))
        bits = x.view(np.int32).reshape(outer, self.channels, -1)
        batch = bits.shape[0] * bits.shape[2]
        if batch > self._room:
            self._sums = _carry(self._sums, _SUM_RADIX)
            self._squares = _carry(self._squares, _SQUARE_RADIX)
            self._room = _ROOM
        self._room -= batch
        kernels().sum_channels(bits, self._extremes, self._counts, self._sums, self._squares)

    def result(self) -> ChannelStats:
        """Return the statistics so far as a value."""
        some = self._counts > 0
        ends = np.full(self._extremes.shape, (np.inf, -np.inf), dtype=np.float32)  # (channels, 2)
        ends[some] = floats_of_order(self._extremes[some])
        return ChannelStats(
            self.axis,
            ends[:, 0].copy(),
            ends[:, 1].copy(),
            self._counts.copy(),
            _carry(self._sums, _SUM_RADIX),
            _carry(self._squares, _SQUARE_RADIX),
        )


def _carry(limbs: IntArray, radix: int) -> IntArray:
    """Bring limbs (channels, limbs) to their one canonical form: all but the last in [0, 2**radix)."""
    out = limbs.copy()
    for i in range(out.shape[1] - 1):
        out[:, i + 1] += out[:, i] >> radix
        out[:, i] &= (1 << radix) - 1
    return out


def _to_float(limbs: IntArray, radix: int, unit: int) -> npt.NDArray[np.float64]:
    """Return the sums (channels,) that limbs stand for; Python divides integers with one rounding."""
    totals = [sum(int(v) << (radix * i) for i, v in enumerate(row) if v) for row in limbs]
    return np.array([total / (1 << unit) for total in totals], dtype=np.float64)
