"""Graphs inside graphs: the bodies of If, Loop and Scan, and what these take from the graphs around them.

A body has inputs, initializers and nodes of its own. It may also read any value of the graphs around it, by
name: the node that holds the body does not list these values among its inputs. Who asks what a node depends on
has to ask for `dependencies`.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["bodies", "captured", "dependencies", "nodes_in_bodies"]


def bodies(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that a node holds itself, without those inside of them."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def captured(node: ir.Node) -> list[ir.Value]:
    """Return the values that a node's bodies, however deep, read from outside of it; each once."""
    inner: set[ir.Value] = set()
    read: dict[ir.Value, None] = {}
    waiting = bodies(node)
    while waiting:
        body = waiting.pop(0)
        inner.update(body.inputs, body.initializers.values())
        for child in body:
            inner.update(child.outputs)
            read |= dict.fromkeys(v for v in child.inputs if v is not None)
            waiting += bodies(child)
        read |= dict.fromkeys(body.outputs)
    return [v for v in read if v not in inner]


def dependencies(node: ir.Node) -> list[ir.Value]:
    """Return every value that a node needs: its inputs, and what its bodies read from outside of it."""
    return [*(v for v in node.inputs if v is not None), *captured(node)]


def nodes_in_bodies(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes that stand in bodies, however deep, and not in the graph itself."""
    return (node for node in graph.all_nodes() if node.graph is not graph)
