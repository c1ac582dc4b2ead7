"""Columns folded into lines, like words of a text: cut where few edges pass, in lines of about one length.

How many lines there are is decided by trying: the count whose drawing comes nearest to the shape that is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cells", "folded"]

#: How far from an even cut a better one is looked for, as a share of a line.
SLACK = 0.2

#: Columns of a line, at the least.
LEAST = 4

#: Each count of lines that is tried is larger than the one before by this factor.
FINER = 1.15


@dataclass(frozen=True, slots=True)
class Cells:
    """Sizes [px].

    Args:
        column: Width of a column.
        row: Height of a row.
        gap: Height between two lines.
    """

    column: float
    row: float
    gap: float


def folded(
    passing: Sequence[int], ends: Sequence[tuple[float, float]], *, aspect: float, cells: Cells
) -> list[int]:
    """Return where each line begins, the first at 0.

    Args:
        passing: For each column, the edges that pass from the one before it.
        ends: For each column, its highest and its lowest place, in rows.
        aspect: Width of the drawing over its height.
        cells: Sizes.
    """
    best, least = [0], math.inf
    count = 1.0
    while round(count) <= max(1, len(ends) // LEAST):
        starts = _cut(passing, round(count))
        off = abs(math.log(_aspect(starts, ends, cells) / aspect))
        if off < least:
            best, least = starts, off
        count = max(count + 1, count * FINER)
    return best


def _cut(passing: Sequence[int], lines: int) -> list[int]:
    count = len(passing)
    even = count / lines
    starts = [0]
    for line in range(1, lines):
        middle = line * even
        low, high = math.ceil(middle - SLACK * even), math.floor(middle + SLACK * even)
        places = [i for i in range(low, high + 1) if starts[-1] < i < count]
        if places:
            starts.append(min(places, key=lambda i: (passing[i], abs(i - middle))))
    return starts


def _aspect(starts: Sequence[int], ends: Sequence[tuple[float, float]], cells: Cells) -> float:
    wide, high = 0, 0.0
    for a, b in zip(starts, [*starts[1:], len(ends)], strict=True):
        wide = max(wide, b - a)
        line = ends[a:b]
        high += (max(e[1] for e in line) - min(e[0] for e in line) + 1) * cells.row + cells.gap
    return wide * cells.column / high
