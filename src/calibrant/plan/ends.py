"""Layers at both ends of a network: the first ones read its inputs, the last ones give its outputs.

    first    no layer stands before it, or an input comes to it unmixed
    last     no layer stands behind it, or an output comes from it unmixed

What is no layer lies between: activations, reshapes, constant factors. A tensor is mixed where an operator joins it with
another one that is no constant; a Concat does not mix. So an attention mask that is added to the scores of every block
makes no first layer of what reads them, and a shape that is read from a tensor leads nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx_ir as ir

from calibrant.graph.bodies import dependencies
from calibrant.graph.ops import RECURRENT, rule_of

__all__ = ["first_layers", "last_layers"]

#: Operators whose answer is a shape, not what a tensor holds.
_SHAPES = frozenset({"Shape", "Size"})

Steps = Callable[[ir.Node], Iterable[ir.Node]]


def first_layers(model: ir.Model) -> frozenset[str]:
    """Return the names of the layers that read an input."""
    nodes = list(model.graph)
    given = set(model.graph.inputs) - set(model.graph.initializers.values())
    ends = [n for n in nodes if given & set(dependencies(n))]
    return _at_end(nodes, ends, _readers(nodes))


def last_layers(model: ir.Model) -> frozenset[str]:
    """Return the names of the layers that give an output."""
    producers = [v.producer() for v in model.graph.outputs]
    return _at_end(list(model.graph), [n for n in producers if n is not None], _makers)


def _at_end(nodes: list[ir.Node], ends: list[ir.Node], inwards: Steps) -> frozenset[str]:
    """Return the layers at an end of the network, from where steps lead into it."""
    layers = {n for n in nodes if rule_of(n).kind == "compute" or n.op_type in RECURRENT}
    inside = _reached([m for n in layers for m in inwards(n)], inwards, lambda _: True)
    direct = _reached(ends, inwards, lambda n: n not in layers and not _mixes(n))
    return frozenset(n.name or "" for n in layers if n not in inside or n in direct)


def _reached(
    start: Iterable[ir.Node], steps: Steps, goes_on: Callable[[ir.Node], bool]
) -> set[ir.Node]:
    """Return the nodes that steps lead to; those that do not go on are in it, and are the end of their way."""
    seen, stack = set[ir.Node](), list(start)
    while stack:
        node = stack.pop()
        if node in seen or node.op_type in _SHAPES:
            continue
        seen.add(node)
        if goes_on(node):
            stack += steps(node)
    return seen


def _mixes(node: ir.Node) -> bool:
    """Whether a node joins tensors that are no constants."""
    joined = [v for v in dict.fromkeys(dependencies(node)) if _varies(v)]
    return len(joined) > 1 and node.op_type != "Concat"


def _varies(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None:
        return value.const_value is None
    return producer.op_type not in (*_SHAPES, "Constant")


def _makers(node: ir.Node) -> list[ir.Node]:
    return [m for v in dependencies(node) if (m := v.producer()) is not None]


def _readers(nodes: Iterable[ir.Node]) -> Steps:
    """Return who reads a node; what a body reads, the node that holds the body reads."""
    found: dict[ir.Node, list[ir.Node]] = {}
    for node in nodes:
        for maker in _makers(node):
            found.setdefault(maker, []).append(node)
    return lambda node: found.get(node, ())
