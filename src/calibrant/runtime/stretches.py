"""A model in stretches of consecutive nodes, for tensors of which one sample is too much to hold at once.

    | a b c | d e | f g h |          what is looked at in a stretch is let go of before the next one runs

A runtime keeps every tensor that is looked at until the end of a run. With one run a stretch it keeps few of them, and each
node still runs once. Between two stretches lie the tensors that nodes behind still read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from calibrant.graph.values import values_by_name
from calibrant.runtime.walk import piece, reads

__all__ = ["Stretch", "stretches"]


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """A stretch of nodes.

    Args:
        model: They alone. Its outputs are the tensors that are looked at, and those that it hands on.
        tensors: What is looked at.
        hands_on: What stretches behind it read, and nobody looks at here.
    """

    model: ir.Model
    tensors: tuple[str, ...]
    hands_on: tuple[str, ...]


def stretches(model: ir.Model, tensors: Mapping[str, float], limit: float) -> list[Stretch] | None:
    """Cut a model so that what is looked at in each stretch stays below a limit, if it is more than one tensor.

    Nodes that no tensor depends on are left out.

    Args:
        model: The model; it is not changed.
        tensors: Outputs of nodes that are looked at, and their bytes.
        limit: How many bytes.

    Returns:
        The stretches in the order in which they run; None where a tensor does not come from a node of the graph itself,
        or the graph does not say the type of one that would be handed on.
    """
    nodes = _needed(model, tensors)
    made = {v.name or "": i for i, node in enumerate(nodes) for v in node.outputs if v.name}
    if not tensors.keys() <= made.keys():
        return None
    values = values_by_name(model.graph)
    last_read = {name: i for i, node in enumerate(nodes) for name in reads(node)}
    found = []
    for start, end in _cuts(nodes, tensors, limit):
        own = [n for n, i in made.items() if start <= i < end]
        seen = tuple(n for n in own if n in tensors)
        hands_on = tuple(n for n in own if last_read.get(n, -1) >= end and n not in tensors)
        part, _ = piece(model, nodes[start:end], (*seen, *hands_on), values)
        if any(v.type is None for v in part.graph.inputs):
            return None
        found.append(Stretch(part, seen, hands_on))
    return found


def _needed(model: ir.Model, tensors: Mapping[str, float]) -> list[ir.Node]:
    """Return the nodes that tensors depend on, in graph order."""
    wanted = set(tensors)
    found = []
    for node in reversed(model.graph):
        if any(v.name in wanted for v in node.outputs):
            wanted |= set(reads(node))
            found.append(node)
    return found[::-1]


def _cuts(
    nodes: Sequence[ir.Node], tensors: Mapping[str, float], limit: float
) -> list[tuple[int, int]]:
    """Return where each stretch begins and ends."""
    begins, size = [0], 0.0
    for i, node in enumerate(nodes):
        more = sum(tensors.get(v.name or "", 0.0) for v in node.outputs)
        if size and size + more > limit:
            begins.append(i)
            size = 0.0
        size += more
    return list(zip(begins, [*begins[1:], len(nodes)], strict=True))
