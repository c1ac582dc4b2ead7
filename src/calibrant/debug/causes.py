"""Why a calibration node loses: what it clips, and what it rounds.

With x what it reads, c(x) the value within the range of the grid, and q(x) what it gives:

    clipping = sum (x - c(x))**2        rounding = sum (c(x) - q(x))**2        [units of x, squared]

Values up to half a step beyond the range are rounded, as those within it are, and not clipped.

A loss is a *truncation* where clipping is the larger, and *rounding* where it is not. The first asks for another range
(a larger or fixed threshold, more data, another method), the second for a finer grid (16 bits, error compensation, a
scale for each channel).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.debug.calibrations import Calibration
from calibrant.numerics.affine import within
from calibrant.numerics.finite import as_quantized

__all__ = ["Cause", "cause_of", "joined", "said"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """What a calibration node does to values.

    Args:
        least: Smallest value that it reads.
        most: Largest value.
        count: Values.
        clipped: Values beyond the range of the grid.
        signal: Sum of squares of the values.
        clipping: Energy of what is clipped.
        rounding: Energy of what is rounded.
        low: Low end of the grid, the lowest of all channels.
        high: High end.
    """

    least: float
    most: float
    count: int
    clipped: int
    signal: float
    clipping: float
    rounding: float
    low: float
    high: float

    @property
    def clip_share(self) -> float:
        """Share of the values that are clipped."""
        return self.clipped / self.count if self.count else 0.0

    @property
    def used(self) -> float:
        """Share of the range of the grid that the values use."""
        width = self.high - self.low
        if width <= 0:
            return 0.0
        return max(0.0, min(self.most, self.high) - max(self.least, self.low)) / width

    @property
    def kind(self) -> str:
        """`truncation`, `rounding`, or nothing where nothing is lost."""
        return said(self.clipping, self.rounding)

    def __add__(self, other: Cause) -> Cause:
        """Return both together, of one node."""
        return Cause(
            min(self.least, other.least),
            max(self.most, other.most),
            self.count + other.count,
            self.clipped + other.clipped,
            self.signal + other.signal,
            self.clipping + other.clipping,
            self.rounding + other.rounding,
            self.low,
            self.high,
        )


def said(clipping: float, rounding: float) -> str:
    """Name the larger of two energies; nothing where both are 0."""
    if not clipping + rounding > 0:
        return ""
    return "truncation" if clipping > rounding else "rounding"


def cause_of(c: Calibration, arrays: Iterable[Array]) -> Cause:
    """Return what a node does to some values; those that are not finite are left out."""
    ends = c.grid.range
    low, high = float(np.min(ends[0])), float(np.max(ends[1]))
    total = Cause(math.inf, -math.inf, 0, 0, 0.0, 0.0, 0.0, low, high)
    for array in arrays:
        x = np.asarray(array)
        if not x.size or x.dtype.kind != "f":
            continue
        kept = np.isfinite(x)
        values = x[kept]
        if not values.size:
            continue
        inside, given = within(as_quantized(x), c.grid), c.apply(x)
        with np.errstate(invalid="ignore"):
            a = np.where(kept, x, 0).astype(np.float64)
            beyond = kept & (np.abs(x - inside) > np.abs(_steps(c, x.ndim)) / 2)
            clip = np.where(beyond, x - inside, 0).astype(np.float64)
            rest = np.where(kept, np.where(beyond, inside, x) - given, 0).astype(np.float64)
        total += Cause(
            float(values.min()),
            float(values.max()),
            int(kept.sum()),
            int(beyond.sum()),
            float((a * a).sum()),
            float((clip * clip).sum()),
            float((rest * rest).sum()),
            low,
            high,
        )
    return total


def joined(causes: Sequence[Cause]) -> str:
    """Name what several nodes lose most by, each in relation to what it reads."""
    shares = [(c.clipping / c.signal, c.rounding / c.signal) for c in causes if c.signal > 0]
    return said(sum(s[0] for s in shares), sum(s[1] for s in shares))


def _steps(c: Calibration, rank: int) -> npt.NDArray[np.float32]:
    """Return the step of the grid, so that it broadcasts: what is off by half a step is rounded, not clipped."""
    scale = c.grid.scale
    if c.grid.axis is None or scale.ndim == 0:
        return scale
    return scale.reshape([-1 if i == c.grid.axis % rank else 1 for i in range(rank)])
