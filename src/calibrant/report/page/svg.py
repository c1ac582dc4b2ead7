"""The drawing of a network as SVG: edges, and nodes that can be reached by mouse, keyboard and screen reader."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from calibrant.report.evidence.network import NetworkNode
from calibrant.report.page.colours import Colouring
from calibrant.report.page.layout import Drawing
from calibrant.report.page.layout.drawing import NODE_HEIGHT, NODE_WIDTH
from calibrant.report.page.layout.ranks import Edge

__all__ = ["svg_of"]

#: Letters of an operator that fit a node.
LETTERS = 9

#: A drawing wider than this [px] is shown so small at first that its texts are left out (`graph.js`).
FAR_WIDTH = 2600


def svg_of(
    nodes: Sequence[NetworkNode],
    edges: Sequence[Edge],
    drawing: Drawing,
    kinds: Sequence[str],
    colouring: Colouring | None,
) -> str:
    """Return the drawing.

    Args:
        nodes: Nodes, the index of each is its id on the page.
        edges: Who is read by whom.
        drawing: Where they are.
        kinds: `layer`, `float`, `small` or `end`, for each node.
        colouring: How layers are coloured at first.
    """
    size = f"{drawing.width:g} {drawing.height:g}"
    ways = "".join(
        f'<path d="{way}" data-a="{a}" data-b="{b}"/>'
        for way, (a, b) in zip(drawing.ways, edges, strict=True)
    )
    drawn = "".join(
        _node(i, node, kind, at, colouring)
        for i, (node, kind, at) in enumerate(zip(nodes, kinds, drawing.centres, strict=True))
    )
    sides = "two" if colouring is not None and colouring.two_sided else "one"
    if drawing.width > FAR_WIDTH:
        sides += " far"
    return (
        f'<svg id="graph" viewBox="0 0 {size}" data-size="{size}" role="group" '
        f'class="{sides}" '
        f'aria-label="The network: {len(nodes)} nodes" preserveAspectRatio="xMidYMid meet">'
        f'<g class="ways" aria-hidden="true">{ways}</g><g class="nodes">{drawn}</g></svg>'
    )


def _node(
    index: int,
    node: NetworkNode,
    kind: str,
    at: tuple[float, float],
    colouring: Colouring | None,
) -> str:
    step = colouring.steps.get(node.name) if colouring is not None else None
    said = colouring.texts.get(node.name, "") if colouring is not None else ""
    colour = f" c{step}" if step is not None else ""
    label = escape(f"{node.op_type} {node.name}" + (f", {said}" if said else ""))
    width, height = NODE_WIDTH, NODE_HEIGHT - 4 * (kind == "small")
    return (
        f'<g class="node {kind}{colour}" id="n{index}" role="button" tabindex="-1" aria-label="{label}" '
        f'transform="translate({at[0]:g} {at[1]:g})">'
        f'<rect x="{-width / 2:g}" y="{-height / 2:g}" width="{width}" height="{height}" rx="4"/>'
        f'<text y="3">{escape(_short(node.op_type, LETTERS))}</text></g>'
    )


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
