"""The network as a graph in miniature, and the card of each of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calibrant.report.evidence.network import Network, NetworkNode
from calibrant.report.page.cards import card_of, facts_of
from calibrant.report.page.colours import Colouring, colourings
from calibrant.report.page.layout import NARROW, WIDE, Drawing, draw
from calibrant.report.page.layout.ranks import Edge
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section
from calibrant.report.page.svg import svg_of

__all__ = ["section"]

INPUT, OUTPUT = "Input", "Output"


def section(run: Run, extra: Sequence[Colouring] = ()) -> Section | None:
    """Return the graph, coloured by what layers lose, with their cards.

    Args:
        run: The run.
        extra: Ways to colour layers that come before those of the run.
    """
    if run.network is None:
        return None
    nodes, edges = _with_ends(run.network)
    facts = facts_of(run)
    ways = [*extra, *colourings(run)]
    first = ways[0] if ways else None
    quantized = {n for n, d in facts.layers.items() if d["quantized"]}
    kinds = [_kind(n, quantized, set(facts.layers)) for n in nodes]
    before: list[list[int]] = [[] for _ in nodes]
    behind: list[list[int]] = [[] for _ in nodes]
    for a, b in edges:
        behind[a].append(b)
        before[b].append(a)
    cards = [card_of(facts, n.name, n.op_type, n.outputs) for n in nodes]
    for i, card in enumerate(cards):
        card["before"], card["behind"] = before[i], behind[i]
    index = {n.name: i for i, n in enumerate(nodes)}
    wide, narrow = draw(len(nodes), edges, (WIDE, NARROW))
    return Section(
        "network",
        "Network",
        "graph.html",
        {
            "svg": svg_of(nodes, edges, wide, kinds, first),
            "ways": ways,
            "counted": _counted(run, len(quantized)),
            "two_sided": first is not None and first.two_sided,
            "first": next((index[n] for n in first.order if n in index), None) if first else None,
        },
        {
            "cards": cards,
            "seen": facts.seen,
            "ways": [_way(w, index) for w in ways],
            "narrow": _drawn(narrow),
            "samples": run.distributions.samples if run.distributions is not None else 0,
        },
    )


def _counted(run: Run, quantized: int) -> str:
    """Say how large the network is."""
    assert run.network is not None
    said = [f"{len(run.network.nodes)} nodes"]
    if run.plan is not None:
        said.append(f"{quantized} quantized layers")
    if run.comparison is not None:
        said.append(f"{len(run.comparison.layers)} tensors compared")
    if run.plan is None and run.advice is not None:
        said.append(f"{len(run.advice.shares())} layers in which much is lost")
    if run.plan is None and run.rank is not None:
        said.append(f"{len(run.rank.by_name())} layers ranked")
    return ", ".join(said)


def _drawn(drawing: Drawing) -> dict[str, Any]:
    """Return another drawing of the same nodes and edges, which the scripts can change to."""
    return {
        "size": [drawing.width, drawing.height],
        "at": [list(at) for at in drawing.centres],
        "paths": list(drawing.ways),
    }


def _with_ends(network: Network) -> tuple[list[NetworkNode], list[Edge]]:
    """Return the nodes with one more for each input and output of the model, and who is read by whom."""
    nodes = [NetworkNode(n, INPUT, (), (n,)) for n in network.inputs]
    nodes += network.nodes
    nodes += [NetworkNode(n, OUTPUT, (n,), ()) for n in network.outputs]
    makers: dict[str, int] = {}
    edges: dict[Edge, None] = {}
    for i, node in enumerate(nodes):
        for tensor in node.inputs:
            if tensor in makers:
                edges[makers[tensor], i] = None
        for tensor in node.outputs:
            makers[tensor] = i
    return nodes, list(edges)


def _kind(node: NetworkNode, quantized: set[str], layers: set[str]) -> str:
    if node.op_type in (INPUT, OUTPUT):
        return "end"
    if node.name in quantized:
        return "layer"
    return "float" if node.name in layers else "small"


def _way(way: Colouring, index: Mapping[str, int]) -> dict[str, Any]:
    known = [n for n in way.order if n in index]
    return {
        "key": way.key,
        "label": way.label,
        "legend": list(way.legend),
        "two_sided": way.two_sided,
        "steps": {index[n]: way.steps[n] for n in known},
        "texts": {index[n]: way.texts[n] for n in known},
        "order": [index[n] for n in known],
    }
