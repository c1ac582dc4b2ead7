"""Which nodes, and which of their inputs, a rule selects in one model.

Names that the model does not have fail here, with a near name.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx_ir as ir

from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.graph.bodies import dependencies
from calibrant.graph.ops import matches_type, rule_of
from calibrant.graph.passes.fuse_batchnorm import FOLDED
from calibrant.plan.ends import first_layers, last_layers
from calibrant.recipe import (
    AllNodes,
    AllOf,
    EndLayers,
    InputOf,
    Layer,
    LayerInput,
    MappedLayers,
    Note,
    OpType,
    Rule,
    Subgraph,
    Where,
)

__all__ = ["Edges", "an", "at", "match_rule"]

logger = logging.getLogger(__name__)

#: (node, input) pairs; input None is the whole node.
Edges = frozenset[tuple[str, int | None]]


def match_rule(rule: Rule, model: ir.Model, notes: list[Note]) -> Edges:
    """Return what a rule selects.

    Args:
        rule: The rule.
        model: A prepared model.
        notes: Gets a note where a type matches nothing, unless the rule is implied, and where a rule names a
            node that was folded into another; one that is required names the other.

    Raises:
        ConfigValueError: The model does not have what the rule names.
    """
    if rule.force != "required":
        rule = replace(rule, where=_unfolded(rule, model, notes))
    found = _match(rule.where, model, rule.origin)
    if isinstance(rule.where, OpType) and not found and rule.force != "implied":
        message = f"The model has no operator of type '{rule.where.name}'."
        notes.append(Note(rule.origin or str(rule.where), message))
    return found


def _unfolded(rule: Rule, model: ir.Model, notes: list[Note]) -> Where:
    """Return what a rule selects, with the layer that a node it names was folded into in that node's place."""
    where = rule.where
    if not isinstance(where, Layer | LayerInput) or any(n.name == where.name for n in model.graph):
        return where
    owner = next((n for n in model.graph if where.name in n.meta.get(FOLDED, ())), None)
    if owner is None:
        return where
    message = f"Node '{where.name}' is folded into '{owner.name}', which the rule is taken for."
    note = Note(rule.origin or str(where), message, honoured=True)
    if note not in notes:
        notes.append(note)
    return replace(where, name=owner.name or "")


def _match(where: Where, model: ir.Model, origin: str) -> Edges:
    nodes = list(model.graph)
    match where:
        case AllNodes():
            return frozenset((n.name or "", None) for n in nodes)
        case OpType(name):
            own = frozenset((n.name or "", None) for n in nodes if n.op_type == name)
            if own:  # an operator of the model's own, too
                return own
            try:
                return frozenset((n.name or "", None) for n in nodes if matches_type(n, name))
            except ConfigValueError as e:
                raise ConfigValueError(f"{at(origin)}{e}") from e
        case Layer(name):
            return frozenset((n, None) for n in _layer_names(name, nodes, origin))
        case LayerInput():
            return _input(where, nodes, origin)
        case Subgraph():
            return frozenset((n, None) for n in _between(where, model, origin))
        case EndLayers(which):
            found = first_layers(model) if which == "first" else last_layers(model)
            return frozenset((n, None) for n in found)
        case InputOf(inner, index):
            owners = {n for n, _ in _match(inner, model, origin)}
            having = [n for n in nodes if n.name in owners and index < len(n.inputs)]
            if owners and not having:
                raise ConfigValueError(f"{at(origin)}no node of {inner} has an input {index}.")
            return frozenset((n.name or "", index) for n in having)
        case AllOf(parts):
            return frozenset.intersection(*(_match(p, model, origin) for p in parts))
        case MappedLayers(file, names):
            return frozenset((n, None) for n in _mapped(file, names, nodes, origin))


def _input(where: LayerInput, nodes: list[ir.Node], origin: str) -> Edges:
    found = _layer_names(where.name, nodes, origin)
    for node in nodes:
        if node.name not in found:
            continue
        if where.types and node.op_type not in where.types:
            raise ConfigValueError(
                f"{at(origin)}'{node.name}' is a {node.op_type}; an input of its own can be quantized for "
                f"{' or '.join(where.types)} alone."
            )
        if not 0 <= where.index < len(node.inputs):
            raise ConfigValueError(
                f"{at(origin)}layer '{node.name}' has no input {where.index}; it has inputs 0 to "
                f"{len(node.inputs) - 1}."
            )
    return frozenset((n, where.index) for n in found)


def _mapped(
    file: str, names: tuple[str, ...] | None, nodes: list[ir.Node], origin: str
) -> set[str]:
    if names is None:
        raise ConfigValueError(f"{at(origin)}the mapping file '{file}' does not exist.")
    known = {n.name or "" for n in nodes}
    found = known & set(names)
    for name in names:
        if name not in known:
            logger.debug("%s names '%s', which is not in the model", file, name)
    if not found:
        raise ConfigValueError(
            f"{at(origin)}the mapping file '{file}' names {len(names)} layers, and none of them is in the "
            "model."
        )
    return found


def at(origin: str) -> str:
    """Return a rule's origin as the head of a message."""
    return f"{origin}: " if origin else ""


def an(op_type: str) -> str:
    """Return an operator with its article, for messages."""
    return f"{'an' if op_type[0] in 'AEIOU' or op_type == 'LSTM' else 'a'} {op_type}"


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
        f"{at(origin)}layer '{pattern}' is not in the model ({len(layers)} quantizable layers, "
        f"{len(names)} nodes).{near}"
    )


def _between(where: Subgraph, model: ir.Model, origin: str) -> set[str]:
    """Nodes on any path from the inputs to the outputs; both ends are included where nodes name them."""
    nodes = {n.name or "": n for n in model.graph}
    values: dict[str, ir.Value] = {v.name or "": v for v in model.graph.inputs}
    values |= {v.name or "": v for n in model.graph for v in n.outputs}
    readers: dict[ir.Value, list[ir.Node]] = {v: [] for v in values.values()}
    for node in model.graph:  # what a body reads, the node that holds it reads
        for value in dict.fromkeys(dependencies(node)):
            readers.setdefault(value, []).append(node)

    def ends(names: Iterable[str], *, start: bool) -> list[ir.Node]:
        found: list[ir.Node] = []
        for name in names:
            if name in nodes:
                found.append(nodes[name])
            elif name in values:
                producer = values[name].producer()
                found += readers[values[name]] if start else [producer] if producer else []
            else:
                raise ConfigValueError(
                    f"{at(origin)}subgraph '{where.name}' names '{name}', which is no node or tensor of "
                    f"the model.{did_you_mean(name, [*nodes, *values])}"
                )
        return found

    def reach(start: list[ir.Node], *, forward: bool) -> set[ir.Node]:
        seen, stack = set(start), list(start)
        while stack:
            node = stack.pop()
            for n in _behind(node, readers) if forward else _before(node):
                if n not in seen:
                    seen.add(n)
                    stack.append(n)
        return seen

    inside = reach(ends(where.inputs, start=True), forward=True) & reach(
        ends(where.outputs, start=False), forward=False
    )
    if not inside:
        raise ConfigValueError(
            f"{at(origin)}subgraph '{where.name}' is empty: no path leads from its inputs to its outputs."
        )
    return {n.name or "" for n in inside}


def _behind(node: ir.Node, readers: Mapping[ir.Value, list[ir.Node]]) -> list[ir.Node]:
    return [reader for value in node.outputs for reader in readers.get(value, ())]


def _before(node: ir.Node) -> list[ir.Node]:
    makers = [value.producer() for value in dependencies(node)]
    return [maker for maker in makers if maker is not None]
