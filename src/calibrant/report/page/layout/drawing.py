"""A network as a drawing: where each node stands, and the way of each edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from calibrant.report.page.layout.fold import Cells, folded
from calibrant.report.page.layout.order import ordered
from calibrant.report.page.layout.place import placed
from calibrant.report.page.layout.ranks import Edge, ranks_of

__all__ = ["NARROW", "WIDE", "Drawing", "draw"]

#: Sizes [px]: of a node, of the cell around it, of the gap between two lines, and of the margin.
NODE_WIDTH, NODE_HEIGHT = 48, 20
COLUMN, ROW, GAP, MARGIN = 66, 34, 26, 24

#: Width over height of a drawing for a desk, and for a phone.
WIDE, NARROW = 2.0, 0.7

#: An edge over more columns than this, in a network with many of them, is drawn without a place in each.
FAR, MANY = 10, 10_000


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where everything is.

    Args:
        width: Of the drawing [px].
        height: Of the drawing [px].
        centres: Of each node [px].
        ways: For each edge, where it goes, as the `d` of a path in SVG.
    """

    width: float
    height: float
    centres: tuple[tuple[float, float], ...]
    ways: tuple[str, ...]


def draw(count: int, edges: Sequence[Edge], aspects: Sequence[float] = (WIDE,)) -> list[Drawing]:
    """Lay out a network.

    Args:
        count: Nodes, each behind all that it reads.
        edges: Who is read by whom.
        aspects: Widths over heights that are wanted.

    Returns:
        A drawing for each of them.
    """
    if not count:
        return [Drawing(2 * MARGIN, 2 * MARGIN, (), ()) for _ in aspects]
    ranks = ranks_of(count, edges)
    chains, ranks = _chains(ranks, edges)
    columns: list[list[int]] = [[] for _ in range(max(ranks) + 1)]
    for node, rank in enumerate(ranks):
        columns[rank].append(node)
    before: list[list[int]] = [[] for _ in ranks]
    behind: list[list[int]] = [[] for _ in ranks]
    for chain in chains:
        for a, b in pairwise(chain):
            if ranks[b] == ranks[a] + 1:
                behind[a].append(b)
                before[b].append(a)
    columns = ordered(columns, before, behind)
    y = placed(columns, before, behind)
    passing = [sum(len(before[n]) for n in column) for column in columns]
    ends = [(y[c[0]], y[c[-1]]) for c in columns]
    cells = Cells(COLUMN, ROW, GAP)
    return [
        _on_paper(
            count,
            ranks,
            y,
            columns,
            chains,
            folded(passing, ends, aspect=aspect, cells=cells),
        )
        for aspect in aspects
    ]


def _chains(ranks: list[int], edges: Sequence[Edge]) -> tuple[list[list[int]], list[int]]:
    """Give every edge a place in each column that it passes; return the nodes of each edge, and all ranks."""
    total = sum(ranks[b] - ranks[a] - 1 for a, b in edges)
    limit = FAR if total > MANY else total + 1
    ranks = list(ranks)
    chains = []
    for a, b in edges:
        chain = [a]
        if ranks[b] - ranks[a] <= limit:
            for rank in range(ranks[a] + 1, ranks[b]):
                chain.append(len(ranks))
                ranks.append(rank)
        chains.append([*chain, b])
    return chains, ranks


def _on_paper(
    count: int,
    ranks: list[int],
    y: list[float],
    columns: list[list[int]],
    chains: list[list[int]],
    starts: list[int],
) -> Drawing:
    ends = [*starts[1:], len(columns)]
    line_of = [
        line for line, (a, b) in enumerate(zip(starts, ends, strict=True)) for _ in range(a, b)
    ]
    width = 2 * MARGIN + max(b - a for a, b in zip(starts, ends, strict=True)) * COLUMN
    tops: list[float] = []  # middle of row 0 of each line
    bottoms: list[float] = []
    down = MARGIN / 2
    for a, b in zip(starts, ends, strict=True):
        inside = [y[n] for column in columns[a:b] for n in column]
        tops.append(down + ROW / 2 - min(inside) * ROW)
        down += (max(inside) - min(inside) + 1) * ROW
        bottoms.append(down)
        down += GAP
    at = [
        (
            MARGIN + (ranks[n] - starts[line_of[ranks[n]]] + 0.5) * COLUMN,
            tops[line_of[ranks[n]]] + y[n] * ROW,
        )
        for n in range(len(ranks))
    ]
    lines = [line_of[r] for r in ranks]
    ways = tuple(_way(chain, at, lines, bottoms, width) for chain in chains)
    return Drawing(width, down - GAP + MARGIN / 2, tuple(at[:count]), ways)


def _way(
    chain: list[int],
    at: list[tuple[float, float]],
    lines: list[int],
    bottoms: list[float],
    width: float,
) -> str:
    """Return the path of one edge: curves from place to place, and around the margin from line to line."""
    half = NODE_WIDTH / 2
    x, y = at[chain[0]][0] + half, at[chain[0]][1]
    parts = [f"M{x:g} {y:g}"]
    for i, (a, b) in enumerate(pairwise(chain), 1):
        last = i == len(chain) - 1
        to_x, to_y = at[b][0] - (half if last else 0), at[b][1]
        if lines[a] == lines[b]:
            parts.append(_curve(x, y, to_x, to_y))
        else:
            shift = (chain[0] * 5 % 16) - 8  # edges side by side do not hide each other
            gutter = bottoms[lines[a]] + GAP / 2 + shift / 2
            right, left = width - MARGIN / 2 - abs(shift) / 2, MARGIN / 2 + abs(shift) / 2
            parts.append(f"H{right:g}V{gutter:g}H{left:g}V{to_y:g}H{to_x:g}")
        x, y = to_x, to_y
    return "".join(parts)


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    if y == to_y:
        return f"H{to_x:g}"
    middle = (x + to_x) / 2
    return f"C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"
