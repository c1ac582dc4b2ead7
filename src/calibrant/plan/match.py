"""Which nodes, and which of their inputs, a rule selects in one model.

Names that the model does not have fail here, with a near name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

import onnx_ir as ir

from calibrant.errors import ConfigValueError, UnsupportedError, did_you_mean
from calibrant.graph.ops import matches_type, rule_of
from calibrant.recipe import AllNodes, Layer, LayerInput, Note, OpType, Subgraph, Where

__all__ = ["match_rule"]


def match_rule(
    where: Where, model: ir.Model, origin: str, notes: list[Note]
) -> frozenset[tuple[str, int | None]]:
    """Return the (node, input) pairs a rule selects; input None is the whole node."""
    nodes = list(model.graph)
    match where:
        case AllNodes():
            return frozenset((n.name or "", None) for n in nodes)
        case OpType(name):
            found = frozenset((n.name or "", None) for n in nodes if matches_type(n, name))
            if not found:
                notes.append(
                    Note(origin or str(where), f"The model has no operator of type '{name}'.")
                )
            return found
        case Layer(name):
            return frozenset((n, None) for n in _layer_names(name, nodes, origin))
        case LayerInput(name, index):
            found_names = _layer_names(name, nodes, origin)
            for node in nodes:
                if node.name in found_names and not 0 <= index < len(node.inputs):
                    raise ConfigValueError(
                        f"{_at(origin)}layer '{node.name}' has no input {index}; it has inputs 0 to "
                        f"{len(node.inputs) - 1}."
                    )
            return frozenset((n, index) for n in found_names)
        case Subgraph():
            return frozenset((n, None) for n in _between(where, model, origin))
        case _:
            raise UnsupportedError(f"{_at(origin)}a rule for '{where}' is not supported yet.")


def _at(origin: str) -> str:
    return f"{origin}: " if origin else ""


def _layer_names(pattern: str, nodes: list[ir.Node], origin: str) -> set[str]:
    names = [n.name or "" for n in nodes]
    if pattern in names:
        return {pattern}
    if any(c in pattern for c in "*?["):
        found = {n for n in names if fnmatch.fnmatchcase(n, pattern)}
        if found:
            return found
    layers = [n.name or "" for n in nodes if rule_of(n).kind == "compute"]
    near = did_you_mean(pattern, names)
    raise ConfigValueError(
        f"{_at(origin)}layer '{pattern}' is not in the model ({len(layers)} quantizable layers, "
        f"{len(names)} nodes).{near}"
    )


def _between(where: Subgraph, model: ir.Model, origin: str) -> set[str]:
    """Nodes on any path from the inputs to the outputs (horizon.md 7.5)."""
    nodes = {n.name or "": n for n in model.graph}
    values: dict[str, ir.Value] = {v.name or "": v for v in model.graph.inputs}
    values |= {v.name or "": v for n in model.graph for v in n.outputs}

    def ends(names: Iterable[str], *, start: bool) -> list[ir.Node]:
        found: list[ir.Node] = []
        for name in names:
            if name in nodes:
                found.append(nodes[name])
            elif name in values:
                producer = values[name].producer()
                found += values[name].consumers() if start else [producer] if producer else []
            else:
                raise ConfigValueError(
                    f"{_at(origin)}subgraph '{where.name}' names '{name}', which is no node or tensor of "
                    f"the model.{did_you_mean(name, [*nodes, *values])}"
                )
        return found

    def reach(start: list[ir.Node], *, forward: bool) -> set[ir.Node]:
        seen, stack = set(start), list(start)
        while stack:
            node = stack.pop()
            for n in node.successors() if forward else node.predecessors():
                if n not in seen:
                    seen.add(n)
                    stack.append(n)
        return seen

    inside = reach(ends(where.inputs, start=True), forward=True) & reach(
        ends(where.outputs, start=False), forward=False
    )
    if not inside:
        raise ConfigValueError(
            f"{_at(origin)}subgraph '{where.name}' is empty: no path leads from its inputs to its outputs."
        )
    return {n.name or "" for n in inside}
