"""Which column a node stands in: the longest way to it. Nodes that nothing leads to stand close to who reads them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Edge", "ranks_of"]

#: From one node to another, by index; the first comes before the second.
Edge = tuple[int, int]


def ranks_of(count: int, edges: Sequence[Edge]) -> list[int]:
    """Return the column of each node.

    Args:
        count: Nodes, in an order in which each stands behind all that it reads.
        edges: Who is read by whom.

    Example:
        >>> ranks_of(4, [(0, 1), (1, 3), (0, 3), (2, 3)])
        [0, 1, 1, 2]
    """
    before: list[list[int]] = [[] for _ in range(count)]
    behind: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        before[b].append(a)
        behind[a].append(b)
    ranks = [0] * count
    for node in range(count):
        ranks[node] = max((ranks[a] + 1 for a in before[node]), default=0)
    for node in reversed(range(count)):
        if not before[node] and behind[node]:
            ranks[node] = min(ranks[b] for b in behind[node]) - 1
    return ranks
