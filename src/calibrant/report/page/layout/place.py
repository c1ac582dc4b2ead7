"""How high each node of a column stands: near its neighbours, in the order of the column, one row apart.

With d the mean height of a node's neighbours, a column's heights y are those with

    least sum (y - d)**2,     y[i + 1] - y[i] >= 1

found by pooling adjacent violators.

Source: Barlow, Bartholomew, Bremner, Brunk, "Statistical Inference under Order Restrictions", Wiley 1972, section 1.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from calibrant.report.page.layout.order import Columns

__all__ = ["placed"]

SWEEPS = 8


def placed(
    columns: Columns,
    before: Sequence[Sequence[int]],
    behind: Sequence[Sequence[int]],
) -> list[float]:
    """Return the height of each node, in rows; halves of rows occur.

    Args:
        columns: Nodes by column, from top to bottom.
        before: For each node, its neighbours in the column before.
        behind: For each node, its neighbours in the next column.
    """
    y = [0.0] * len(before)
    for column in columns:
        for i, node in enumerate(column):
            y[node] = i - (len(column) - 1) / 2
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        near = before if forward else behind
        for column in columns if forward else reversed(columns):
            wanted = [
                sum(y[x] for x in near[n]) / len(near[n]) if near[n] else y[n] for n in column
            ]
            for node, height in zip(column, spaced(wanted), strict=True):
                y[node] = height
    for column in columns:
        halves = [round(2 * y[n]) / 2 for n in column]
        for node, height in zip(column, spaced(halves), strict=True):
            y[node] = height
    return y


def spaced(wanted: Sequence[float]) -> list[float]:
    """Return numbers nearest to those wanted, in their order and at least 1 apart.

    Example:
        >>> spaced([0.0, 0.0]), spaced([0.0, 5.0])
        ([-0.5, 0.5], [0.0, 5.0])
    """
    blocks: list[tuple[int, float]] = []  # members, and the sum of their heights
    for i, d in enumerate(wanted):
        block = (1, d - i)
        while blocks and blocks[-1][1] / blocks[-1][0] > block[1] / block[0]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1])
        blocks.append(block)
    found = [total / members for members, total in blocks for _ in range(members)]
    return [y + i for i, y in enumerate(found)]
