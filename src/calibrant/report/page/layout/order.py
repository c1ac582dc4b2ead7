"""Who stands above whom in a column: sweeps that put each node at the mean place of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["Columns", "ordered"]

#: Nodes of each column, from top to bottom.
Columns = list[list[int]]

SWEEPS = 6


def ordered(
    columns: Columns, before: Sequence[Sequence[int]], behind: Sequence[Sequence[int]]
) -> Columns:
    """Return the columns in an order with few crossings; of the sweeps, the best.

    Args:
        columns: Nodes by column.
        before: For each node, its neighbours in the column before.
        behind: For each node, its neighbours in the next column.
    """
    best, fewest = columns, _crossings(columns, behind)
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        forward = sweep % 2 == 0
        columns = _swept(columns, before if forward else behind, forward=forward)
        found = _crossings(columns, behind)
        if found < fewest:
            best, fewest = columns, found
    return best


def _swept(columns: Columns, near: Sequence[Sequence[int]], *, forward: bool) -> Columns:
    place: dict[int, int] = {}
    for column in columns:
        place.update((node, i) for i, node in enumerate(column))
    found = [list(column) for column in columns]
    for index in range(len(columns)) if forward else reversed(range(len(columns))):
        column = found[index]
        mean = {
            n: sum(place[x] for x in near[n]) / len(near[n]) if near[n] else float(place[n])
            for n in column
        }
        column.sort(key=lambda n: (mean[n], place[n]))
        place.update((node, i) for i, node in enumerate(column))
    return found


def _crossings(columns: Columns, behind: Sequence[Sequence[int]]) -> int:
    """Count pairs of edges that cross: inversions, by a tree of sums."""
    total = 0
    for left, right in pairwise(columns):
        place = {node: i for i, node in enumerate(right)}
        size = len(right)
        tree = [0] * (size + 1)
        seen = 0
        for node in left:
            ends = sorted(place[b] for b in behind[node])
            for end in ends:
                total += seen - _sum(tree, end)
            for end in ends:
                _add(tree, end)
            seen += len(ends)
    return total


def _sum(tree: list[int], end: int) -> int:
    """Return how many ends lie at `end` or above it."""
    found, i = 0, end + 1
    while i > 0:
        found += tree[i]
        i -= i & -i
    return found


def _add(tree: list[int], end: int) -> None:
    i = end + 1
    while i < len(tree):
        tree[i] += 1
        i += i & -i
