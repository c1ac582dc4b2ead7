"""What holds the range of a tensor: a mask, few channels, few values, or nothing that is there.

A grid has so many steps. Where something few of the values need stretches its range, all others share few of them, and are
rounded coarsely. That is another cause than rounding as such: the range can be mended, the number of steps often not.

    mask        one value far below all others, such as -1e9 in front of a Softmax
    channels    the largest magnitude of few channels is many times the median one
    values      the largest magnitude is many times what all but one value in 10,000 stay below
    nothing     the ends of the grid are many times the largest magnitude
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["OUTLIERS", "SPREAD", "TAIL", "Held", "Seen", "few_channels", "mask_in"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: What is wrong with a range; empty for nothing.
Held = Literal["mask", "range", ""]

#: Values hold the range where the largest magnitude is so many times that of all but one in 10,000.
OUTLIERS = 20.0

#: Channels hold the range where the largest is so many times the median one; nothing does where its ends are so many times
#: the largest value.
SPREAD = 8.0

#: Share of the values whose magnitudes are not looked at as outliers.
TAIL = 0.9999

#: A mask is so low, so many times the size of all other values, and all of it so near to one value.
_LOW, _TIMES, _NEAR = -1e3, 50.0, 0.1


def few_channels(magnitudes: npt.NDArray[Any]) -> tuple[int, ...]:
    """Return the channels that hold the range, largest first, where these are few.

    Args:
        magnitudes: (channels,) largest magnitude of each.
    """
    alive = magnitudes[magnitudes > 0]
    if len(alive) < 2:
        return ()
    middle = float(np.median(alive))
    found = [int(c) for c in np.argsort(-magnitudes) if magnitudes[c] > SPREAD * middle]
    return tuple(found) if 0 < len(found) <= len(magnitudes) // 2 else ()


def mask_in(x: npt.NDArray[Any], *, minus_inf: bool = False) -> tuple[float, float, float] | None:
    """Return the value of a mask, and the least and the largest of the other values; None without a mask.

    Args:
        x: (values,) finite values.
        minus_inf: Values of minus infinity stand beside them, and may be the mask.
    """
    if not len(x):
        return None
    least = float(x.min())
    if least > _LOW:
        return (-np.inf, least, float(x.max())) if minus_inf else None
    others = x[x >= least * (1 - _NEAR)]
    if not len(others):
        return None
    if float(np.abs(others).max()) * _TIMES > -least:
        return None
    return least, float(others.min()), float(others.max())


@dataclass(slots=True, eq=False)
class Seen:
    """What a quantizer reads, added up over samples in constant memory.

    Args:
        axis: Axis of the channels; None where they are not known.
        largest: Largest magnitude.
        ends: Least and largest value.
        tail: What all but one in 10,000 values stay below, the largest of all samples.
        masked: Whether a sample held a mask.
    """

    axis: int | None = None
    largest: float = 0.0
    tail: float = 0.0
    masked: bool = False
    ends: tuple[float, float] = (np.inf, -np.inf)
    _channels: Floats | None = None

    def add(self, x: Array) -> None:
        """Look at the values of a sample, or of several."""
        values = x[np.isfinite(x)].astype(np.float64)
        if not values.size:
            return
        sizes = np.abs(values)
        place = min(len(sizes) - 1, int(TAIL * len(sizes)))
        self.largest = max(self.largest, float(sizes.max()))
        self.ends = min(self.ends[0], float(values.min())), max(self.ends[1], float(values.max()))
        self.tail = max(self.tail, float(np.partition(sizes, place)[place]))
        self.masked |= mask_in(values, minus_inf=bool(np.isneginf(x).any())) is not None
        if self.axis is not None and x.ndim > 1 and -x.ndim <= self.axis < x.ndim:
            others = tuple(a for a in range(x.ndim) if a != self.axis % x.ndim)
            found = (
                np.abs(np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0))
                .max(axis=others)
                .astype(np.float64)
            )
            before = self._channels
            same = before is not None and before.shape == found.shape
            self._channels = np.maximum(before, found) if before is not None and same else found

    @property
    def by_few_channels(self) -> bool:
        """Whether few channels hold the range."""
        return self._channels is not None and bool(few_channels(self._channels))

    def held(self, low: Array, high: Array) -> Held:
        """Return what is wrong with a range of all values together, or of each channel.

        Args:
            low: Low ends of the grid.
            high: High ends of the grid.
        """
        if self.masked:
            return "mask"
        if not self.largest:
            return ""
        ends = np.maximum(np.abs(low), np.abs(high))
        if ends.size > 1:  # each channel has its own
            return ""
        one = self.by_few_channels
        few = self.tail > 0 and self.largest > OUTLIERS * self.tail
        return "range" if one or few or float(ends.max()) > SPREAD * self.largest else ""
