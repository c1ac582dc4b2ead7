"""The nodes at both ends of a network: those that read its inputs, and the layers that its outputs come from."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.ops import rule_of, weight_index

__all__ = ["ends"]


def ends(model: ir.Model) -> tuple[frozenset[str], frozenset[str]]:
    """Return the nodes that read an input of the model, and the layers with a weight that an output comes from.

    Operators that only move values are looked through on the way from an input; whatever has no weight of its own on the way
    to an output.
    """
    first: set[str] = set()
    seen: set[ir.Node] = set()
    stack = [u.node for v in model.graph.inputs for u in v.uses()]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if rule_of(node).kind == "pass_through":
            stack += [u.node for v in node.outputs for u in v.uses()]
        else:
            first.add(node.name or "")
    last: set[str] = set()
    seen.clear()
    stack = [n for v in model.graph.outputs if (n := v.producer()) is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if weight_index(node) is not None:
            last.add(node.name or "")
        else:
            stack += [n for v in node.inputs if v is not None and (n := v.producer()) is not None]
    return frozenset(first), frozenset(last)
