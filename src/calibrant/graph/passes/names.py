"""Give every node and every value a name of its own.

ONNX allows two bodies (the branches of an If) to use one name twice, and many exporters give several nodes one
name, or none. Here names are unique in the whole model. The first of several keeps its name, and the main graph
comes before bodies: inputs, outputs and whatever else a user may name keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import onnx_ir as ir

from calibrant.graph.bodies import nodes_in_bodies

__all__ = ["has_unique_names", "name_everything"]

_Named = TypeVar("_Named", ir.Node, ir.Value)


def has_unique_names(model: ir.Model) -> bool:
    """Say whether `name_everything` would change nothing."""
    values, nodes = _values(model), _nodes(model)
    return not _new_names(values, _of_value) and not _new_names(nodes, _of_node)


def name_everything(model: ir.Model) -> None:
    """Name what has no name, and rename what shares one, in place; other names are kept."""
    for value, name in _new_names(_values(model), _of_value):
        value.name = name
    for node, name in _new_names(_nodes(model), _of_node):
        node.name = name


def _values(model: ir.Model) -> list[ir.Value]:
    """Return all values, those of the main graph first; an output that a node leaves out is none."""

    def found() -> Iterator[ir.Value]:
        for graph in model.graphs():
            yield from graph.inputs
            yield from graph.outputs
            yield from graph.initializers.values()
            for node in graph:
                yield from (v for v in node.outputs if v.name or v.uses())

    return list(dict.fromkeys(found()))


def _nodes(model: ir.Model) -> list[ir.Node]:
    return [*model.graph, *nodes_in_bodies(model.graph)]


def _of_value(value: ir.Value) -> str:
    return value.name or "v"


def _of_node(node: ir.Node) -> str:
    """Return a node's name, or its operator and its first output."""
    first = next((v.name for v in node.outputs if v.name), "node")
    return node.name or f"{node.op_type}_{first}"


def _new_names(
    items: Sequence[_Named], base_of: Callable[[_Named], str]
) -> list[tuple[_Named, str]]:
    """Return the items that need another name, with the name."""
    there = {item.name for item in items if item.name}
    taken: set[str] = set()
    renamed = []
    for item in items:
        name = base = base_of(item)
        n = 0
        while name in taken or (name in there and name != item.name):
            n += 1
            name = f"{base}_{n}"
        taken.add(name)
        if name != item.name:
            renamed.append((item, name))
    return renamed
