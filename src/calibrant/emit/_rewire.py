"""Put quantizers on the edges of a copied model: what the two emitters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from calibrant.graph.values import Names
from calibrant.plan import ActivationDecision

__all__ = ["attach"]


def attach(
    graph: ir.Graph,
    names: Names,
    source: ir.Value,
    decision: ActivationDecision,
    build: Callable[[ir.Value], Sequence[ir.Node]],
) -> None:
    """Insert the nodes that `build` makes behind `source`, and let the decision's readers take them.

    A quantizer that a producer needs serves every reader, the graph's outputs too: the model's output
    keeps its name, and the tensor before the quantizer gets a new one.
    """
    producer = source.producer()
    readers = source.uses()
    was_output = source.is_graph_output()
    nodes = list(build(source))
    last = nodes[-1].outputs[0]
    last.shape, last.type = source.shape, source.type
    if producer is not None:
        graph.insert_after(producer, nodes)
    elif len(graph):
        graph.insert_before(graph[0], nodes)
    edges = set(decision.users)
    for use in readers:
        node, index = use.node, use.idx
        if decision.producer is not None or (node.name, index) in edges:
            node.replace_input_with(index, last)
    if was_output and decision.producer is not None:
        name = source.name
        for i, output in enumerate(graph.outputs):
            if output is source:
                graph.outputs[i] = last
        source.name = names.fresh(f"{name}__float")
        last.name = name
