"""Operators that take integers where everything that reads their output does.

A quantizer in front of such an operator stands in the place of the one behind it, as a compiler moves it: what
comes before then writes integers, and the operator reads a quarter of the bytes.

    Conv ── MaxPool ──Q── Conv        becomes        Conv ──Q── MaxPool ──Q── Conv        with one range for both Q

Readers are walked before what they read, so a whole row of such operators takes part. A tensor that such an operator
has only moved is not quantized again for the next one: its values are on the grid already.

A residual addition runs inside the layer before it, whose accumulator is wide: it reads the layer in float, and the
other operand in integers. Where layers stand on both sides, it runs inside the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from calibrant.graph.data_inputs import data_inputs, fills_with_inf
from calibrant.graph.targets import Target

__all__ = ["feed"]

#: Readers of a tensor's quantized form: nodes with input indices.
Edges = dict[ir.Value, list[tuple[ir.Node, int]]]


def feed(
    model: ir.Model,
    target: Target,
    enabled: Callable[[ir.Node, int | None], bool],
    edges: Edges,
    behind: Callable[[ir.Node], ir.Value],
) -> list[str]:
    """Let feeders take part, and add what they read to `edges`.

    Args:
        model: A prepared model.
        target: The device.
        enabled: Says whether a node, or one of its inputs, is to be quantized.
        edges: What is quantized so far, by tensor; it gets the inputs of feeders.
        behind: Returns the output of a node, or of the activation function that is fused into it.

    Returns:
        Names of the feeders, in the order of the model.
    """
    found = []
    for node in reversed(list(model.graph)):
        if node.op_type not in target.feeders | target.residuals:
            continue
        if not enabled(node, None) or fills_with_inf(node):
            continue
        indices = data_inputs(node) if node.op_type in target.feeders else _other(node, target)
        if not indices or not all(enabled(node, i) for i in indices):
            continue
        outputs = [behind(node), *node.outputs[1:]]
        if any(_read_in_float(value, edges) for value in outputs):
            continue
        found.append(node)
        for index in indices:
            value = node.inputs[index]
            assert value is not None
            edges.setdefault(value, []).append((node, index))
    _leave_out_moved(found, target, edges)
    return [node.name or "" for node in reversed(found)]


def _other(node: ir.Node, target: Target) -> tuple[int, ...]:
    """Return the operand of an addition beside the layer that it runs in; none where there is no such layer."""
    indices = data_inputs(node)
    for index in indices:
        value = node.inputs[index]
        layer = value.producer() if value is not None else None
        alone = layer is not None and len(layer.outputs[0].uses()) == 1
        if layer is not None and alone and layer.op_type in target.anchors and len(indices) == 2:
            return (1 - index,)
    return ()


def _read_in_float(value: ir.Value, edges: Mapping[ir.Value, list[tuple[ir.Node, int]]]) -> bool:
    """Say whether anything reads a tensor as it is: a node, or the caller of the model. Nobody counts as that, too."""
    uses = {(use.node, use.idx) for use in value.uses()}
    return value.is_graph_output() or not uses or not uses <= {*edges.get(value, ())}


def _leave_out_moved(feeders: list[ir.Node], target: Target, edges: Edges) -> None:
    """Take back what one feeder reads of another that has only moved it."""
    moved = {v for node in feeders if node.op_type in target.shared for v in node.outputs}
    for value in moved & {*edges}:
        kept = [(node, index) for node, index in edges[value] if node not in feeders]
        if kept:
            edges[value] = kept
        else:
            del edges[value]
