"""How values are spread: bars of equal width, and the five numbers of a box for each channel.

Source of the box: Tukey, "Exploratory Data Analysis", Addison-Wesley 1977, section 2C; the whiskers here end at the lowest
and the highest value, since these are what a range has to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Bars", "Box", "Boxes", "bars_of", "boxes_of", "short"]

Array = npt.NDArray[np.floating]

#: Bars of a histogram.
BARS = 64


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram with bars of equal width.

    Args:
        low: Where the first bar begins.
        high: Where the last one ends.
        counts: Values in each; a value on an edge counts to the upper bar, the highest one to the last.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """The values of one channel.

    Args:
        channel: Its index.
        low: Lowest value.
        q1: A quarter of the values lies below.
        median: A half lies below.
        q3: Three quarters lie below.
        high: Highest value.
    """

    channel: int
    low: float
    q1: float
    median: float
    q3: float
    high: float


@dataclass(frozen=True, slots=True)
class Boxes:
    """The channels of a tensor, or some of them.

    Args:
        axis: Their axis.
        channels: How many there are.
        shown: In order of channels. Where not all are here, they are spread evenly over the order of their widths, the
            narrowest and the widest among them.
    """

    axis: int
    channels: int
    shown: tuple[Box, ...]


def short(value: float) -> float:
    """Return a number with five digits that count; a picture shows no more."""
    return float(f"{value:.5g}")


def bars_of(
    values: npt.ArrayLike,
    counts: npt.ArrayLike | None = None,
    *,
    between: tuple[float, float] | None = None,
) -> Bars:
    """Count values into bars.

    Args:
        values: Any shape; what is not finite is left out.
        counts: How often each value counts, of the same shape; None for once.
        between: Where the bars begin and end; None for the lowest and the highest value. What lies beyond is left out.

    Example:
        >>> bars_of([0.0, 1.0]).counts[0], bars_of([0.0, 1.0]).counts[-1], sum(bars_of([3.0, 3.0]).counts)
        (1, 1, 2)
    """
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    n = np.ones(x.size) if counts is None else np.asarray(counts, dtype=np.float64).reshape(-1)
    known = np.isfinite(x)
    x, n = x[known], n[known]
    if between is None:
        between = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    low, high = between
    if not high > low:
        low, high = low - 0.5 * max(abs(low), 1e-6), high + 0.5 * max(abs(high), 1e-6)
    found, _ = np.histogram(x, bins=BARS, range=(low, high), weights=n)
    return Bars(low, high, tuple(int(c) for c in found))


def boxes_of(x: Array, axis: int, most: int) -> Boxes:
    """Return the box of each channel.

    Args:
        x: Values, channels along `axis`.
        axis: Axis of the channels; below 0 it counts from the end.
        most: Channels to show.
    """
    axis %= x.ndim
    rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).astype(np.float64)
    rows = np.where(np.isfinite(rows), rows, 0.0)
    if rows.shape[1] == 0:
        return Boxes(axis, len(rows), ())
    five = np.quantile(rows, [0, 0.25, 0.5, 0.75, 1], axis=1).T  # (channels, 5)
    shown = _chosen(five[:, 4] - five[:, 0], most)
    return Boxes(axis, len(rows), tuple(Box(c, *map(short, five[c])) for c in shown))


def _chosen(widths: npt.NDArray[np.float64], most: int) -> Sequence[int]:
    if widths.size <= most:
        return range(widths.size)
    order = np.argsort(widths, kind="stable")
    places = np.linspace(0, widths.size - 1, most).round().astype(int)
    return sorted(int(c) for c in order[places])
