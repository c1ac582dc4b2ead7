"""Columns folded into lines, like words of a text: cut where few edges pass, in lines of about one length."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["folded"]

#: How far from an even cut a better one is looked for, as a share of a line.
SLACK = 0.2


def folded(
    passing: Sequence[int],
    heights: Sequence[float],
    *,
    aspect: float,
    column: float,
    row: float,
    gap: float,
) -> list[int]:
    """Return where each line begins, the first at 0.

    Args:
        passing: For each column, the edges that pass from the one before it.
        heights: For each column, how many rows it takes.
        aspect: Width of the drawing over its height.
        column: Width of a column.
        row: Height of a row.
        gap: Height between two lines.
    """
    count = len(heights)
    tall = sum(heights) / max(1, count) * row + gap
    length = max(4, round(math.sqrt(aspect * count * tall / column)))
    lines = max(1, round(count / length))
    if lines == 1:
        return [0]
    even = count / lines
    starts = [0]
    for line in range(1, lines):
        middle = line * even
        low, high = math.ceil(middle - SLACK * even), math.floor(middle + SLACK * even)
        places = [i for i in range(low, high + 1) if starts[-1] < i < count]
        starts.append(min(places, key=lambda i: (passing[i], abs(i - middle))))
    return starts
