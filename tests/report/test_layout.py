"""The drawing of a network: every node has a place of its own, behind all that it reads."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.report.page.layout import draw
from calibrant.report.page.layout.drawing import MARGIN, NODE_HEIGHT, NODE_WIDTH
from calibrant.report.page.layout.fold import Cells, folded
from calibrant.report.page.layout.order import ordered
from calibrant.report.page.layout.place import spaced
from calibrant.report.page.layout.ranks import Edge, ranks_of


@st.composite
def networks(draw_: st.DrawFn) -> tuple[int, list[Edge]]:
    """Nodes in order of execution, and edges from earlier to later ones."""
    count = draw_(st.integers(1, 25))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw_(st.lists(st.sampled_from(pairs), unique=True, max_size=60)) if pairs else []
    return count, edges


@given(networks())
def test_no_two_nodes_overlap_and_all_are_on_the_paper(network: tuple[int, list[Edge]]) -> None:
    count, edges = network
    (drawing,) = draw(count, edges)
    assert len(drawing.centres) == count
    assert len(drawing.ways) == len(edges)
    for (ax, ay), (bx, by) in itertools.combinations(drawing.centres, 2):
        assert abs(ax - bx) >= NODE_WIDTH or abs(ay - by) >= NODE_HEIGHT
    for x, y in drawing.centres:
        assert NODE_WIDTH / 2 <= x <= drawing.width - NODE_WIDTH / 2
        assert NODE_HEIGHT / 2 <= y <= drawing.height - NODE_HEIGHT / 2


@given(networks())
def test_every_edge_begins_and_ends_at_its_nodes(network: tuple[int, list[Edge]]) -> None:
    count, edges = network
    (drawing,) = draw(count, edges)
    for way, (a, b) in zip(drawing.ways, edges, strict=True):
        assert (_end(way, first=True)) == pytest.approx(
            (drawing.centres[a][0] + NODE_WIDTH / 2, drawing.centres[a][1]), rel=1e-3
        )
        assert _end(way, first=False) == pytest.approx(
            (drawing.centres[b][0] - NODE_WIDTH / 2, drawing.centres[b][1]), rel=1e-3
        )


def _end(way: str, *, first: bool) -> tuple[float, float]:
    """Return the first or the last point of a path of M, H, V and C."""
    x = y = 0.0
    for letter, numbers in re.findall(r"([MHVC])([^MHVC]*)", way):
        at = [float(n) for n in numbers.split()]
        x, y = (at[0], y) if letter == "H" else (x, at[0]) if letter == "V" else (at[-2], at[-1])
        if first:
            break
    return x, y


@given(networks())
def test_ranks_grow_along_every_edge(network: tuple[int, list[Edge]]) -> None:
    count, edges = network
    ranks = ranks_of(count, edges)
    assert min(ranks) == 0
    assert all(ranks[a] < ranks[b] for a, b in edges)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=12), st.randoms())
def test_spaced_is_nearest_of_all_that_keep_the_order(wanted: list[float], random: object) -> None:
    found = np.array(spaced(wanted))
    assert (np.diff(found) >= 1 - 1e-9).all()

    def cost(y: np.ndarray) -> float:
        return float(((y - np.array(wanted)) ** 2).sum())

    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    for scale in (0.01, 0.1, 1.0):
        other = np.cumsum([found[0], *(1 + np.maximum(0, np.diff(found) - 1))])
        other = other + rng.normal(scale=scale)
        gaps = np.maximum(1, np.diff(other) + rng.normal(scale=scale, size=len(wanted) - 1))
        other = np.cumsum([other[0], *gaps])
        assert cost(found) <= cost(other) + 1e-6


def test_a_crossing_that_can_go_goes() -> None:
    columns = [[0, 1], [2, 3]]
    behind = [[3], [2], [], []]
    before: list[list[int]] = [[], [], [1], [0]]
    found = ordered(columns, before, behind)
    place = {n: i for column in found for i, n in enumerate(column)}
    assert (place[0] < place[1]) == (place[3] < place[2])


def test_lines_are_cut_where_one_edge_passes() -> None:
    passing = [1 if i % 5 == 0 else 3 for i in range(60)]
    starts = folded(passing, [(0.0, 0.0)] * 60, aspect=2.0, cells=Cells(60, 30, 20))
    assert len(starts) > 1
    assert all(s % 5 == 0 for s in starts)


def test_a_chain_of_two_thousand_fits_a_screen() -> None:
    (drawing,) = draw(2000, [(i, i + 1) for i in range(1999)])
    assert 1.6 < drawing.width / drawing.height < 2.5


def test_a_network_without_nodes_has_a_drawing() -> None:
    assert draw(0, [])[0].width == 2 * MARGIN
