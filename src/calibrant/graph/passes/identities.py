"""Take out Identity nodes, in the main graph and in bodies.

    y = Identity(x)

1. Where y is no output of its graph, whoever reads y reads x.
2. Where y is an output, x is made by a node of the same graph, and x is no output itself, x takes the name y.
3. Else the Identity stays: y and x are two names that the caller knows, or y is the output of a body and x
   stands outside of it, which a body may hand on through an Identity alone.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["remove_identities"]


def remove_identities(model: ir.Model) -> None:
    """Take out every Identity that is not needed, in place; outputs keep their names and their order."""
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.op_type == "Identity" and node.domain in ("", "ai.onnx"):
                _remove(graph, node)


def _remove(graph: ir.Graph, node: ir.Node) -> None:
    source, out = node.inputs[0], node.outputs[0]
    if source is None:
        return
    if not out.is_graph_output():
        _share_type(source, out)
        out.replace_all_uses_with(source)
        graph.remove(node, safe=True)
        return
    maker = source.producer()
    if maker is None or maker.graph is not graph or source.is_graph_output():
        return
    name = out.name
    source.shape = _merged(out.shape, source.shape)  # what the output declares comes first
    source.type = out.type or source.type
    out.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    source.name = name


def _share_type(source: ir.Value, out: ir.Value) -> None:
    """Let a value know what was known of it under its second name."""
    source.type = source.type or out.type
    if not source.is_graph_input() and not source.is_graph_output():
        source.shape = _merged(source.shape, out.shape)


def _merged(first: ir.Shape | None, second: ir.Shape | None) -> ir.Shape | None:
    """Return the first shape, with the numbers that only the second knows."""
    if first is None or second is None or len(first) != len(second):
        return first or second
    return ir.Shape(
        [
            b if isinstance(b, int) and not isinstance(a, int) else a
            for a, b in zip(first, second, strict=True)
        ]
    )
