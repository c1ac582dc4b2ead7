"""Where quantizers stand in a model, for a target.

An activation point is a tensor and the edges that read its quantized form. A layer is an anchor with its
weight and bias. Which settings hold at a point is not decided here (`plan.resolve`).

Placement follows four steps.

1. The data inputs of every enabled anchor are quantized.
2. Against the order of the model, a feeder whose readers all take integers takes them, too (`graph.feeders`).
3. An anchor that needs an integer output gets a quantizer behind it, or behind the activation function
   that the target fuses into it.
4. In topological order, a follower whose data inputs are all quantized keeps the chain in integers: its
   inputs and its output are quantized.

Integer tensors (token ids), constants and tensors inside If, Loop and Scan bodies have no point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from calibrant.graph.data_inputs import data_inputs, fills_with_inf, quantizable
from calibrant.graph.feeders import feed
from calibrant.graph.ops import (
    bias_of,
    fixed_output_range,
    rule_of,
    weight_axis,
    weight_index,
)
from calibrant.graph.ranges import Ranges
from calibrant.graph.targets import Target

__all__ = ["ActivationPoint", "LayerPoint", "Points", "find_points"]


@dataclass(frozen=True, slots=True)
class ActivationPoint:
    """A tensor to quantize.

    Args:
        tensor: Its name.
        users: Edges (node, input index) that read it quantized.
        producer: Node whose output must be quantized for it to run in integers; None where the
            quantizer belongs to the users alone.
        fixed_range: The range it has by definition (a Softmax output), whatever the data.
        root: Tensor that its values are moved from by operators that must keep one range; points with
            equal roots share their parameters.
    """

    tensor: str
    users: tuple[tuple[str, int], ...]
    producer: str | None
    fixed_range: tuple[float, float] | None
    root: str


@dataclass(frozen=True, slots=True)
class LayerPoint:
    """An operator of the target, with its weight and bias if they are constant.

    Args:
        node: Its name.
        op_type: Its operator.
        inputs: Indices of the inputs that carry activations.
        weight: Name of the weight initializer.
        weight_input: Input index of the weight.
        axis: Output channel axis of the weight.
        bias: Name of the bias initializer.
    """

    node: str
    op_type: str
    inputs: tuple[int, ...]
    weight: str | None
    weight_input: int | None
    axis: int | None
    bias: str | None


@dataclass(frozen=True, slots=True)
class Points:
    """All places of a model where a quantizer stands for a target."""

    activations: tuple[ActivationPoint, ...]
    layers: tuple[LayerPoint, ...]
    followers: tuple[str, ...]


def find_points(
    model: ir.Model,
    target: Target,
    *,
    enabled: Callable[[ir.Node, int | None], bool] = lambda node, index: True,
    extra_inputs: tuple[tuple[str, int], ...] = (),
) -> Points:
    """Find where quantizers stand.

    Args:
        model: A prepared model.
        target: The device.
        enabled: Says whether a node (index None), or one of its inputs, is to be quantized; others stay in
            float.
        extra_inputs: Further edges (node, input index) to quantize, whatever the target says, where they
            carry float32 activations.
    """
    edges: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    outputs: dict[ir.Value, ir.Node] = {}
    layers: list[LayerPoint] = []
    for node in model.graph:
        if node.op_type not in target.anchors or not enabled(node, None):
            continue
        layer = _layer(node, enabled)
        if not layer.inputs:
            continue
        layers.append(layer)
        for index in layer.inputs:
            value = node.inputs[index]
            assert value is not None
            edges.setdefault(value, []).append((node, index))
        if node.op_type in target.integer_outputs:
            outputs[_behind_fused(node, target)] = node
    feeders = feed(model, target, enabled, edges, lambda node: _behind_fused(node, target))
    followers = feeders + _follow(model, target, enabled, edges, outputs)
    by_name = {node.name: node for node in model.graph}
    for name, index in extra_inputs:
        node = by_name[name]
        extra = node.inputs[index]
        if extra is not None and quantizable(extra) and (node, index) not in edges.get(extra, []):
            edges.setdefault(extra, []).append((node, index))
    order = {v: i for i, v in enumerate(_values(model))}
    ranges = Ranges(model, target)
    points = [
        ActivationPoint(
            tensor=value.name or "",
            users=tuple((n.name or "", i) for n, i in edges.get(value, ())),
            producer=outputs[value].name if value in outputs else None,
            fixed_range=_fixed_range(value),
            root=ranges.root(value).name or "",
        )
        for value in sorted({*edges, *outputs}, key=lambda v: order[v])
    ]
    return Points(_agreed(points), tuple(layers), tuple(followers))


def _layer(node: ir.Node, enabled: Callable[[ir.Node, int | None], bool]) -> LayerPoint:
    rule = rule_of(node)
    index = weight_index(node)
    candidates = rule.data if rule.data is not None else tuple(range(len(node.inputs)))
    inputs = tuple(
        i
        for i in candidates
        if i < len(node.inputs) and i != index and quantizable(node.inputs[i]) and enabled(node, i)
    )
    bias = bias_of(node)
    weight_value = node.inputs[index] if index is not None else None
    bias_value = bias[0].inputs[bias[1]] if bias is not None else None
    return LayerPoint(
        node=node.name or "",
        op_type=node.op_type,
        inputs=inputs,
        weight=weight_value.name if weight_value is not None else None,
        weight_input=index,
        axis=weight_axis(node),
        bias=bias_value.name if bias_value is not None else None,
    )


def _follow(
    model: ir.Model,
    target: Target,
    enabled: Callable[[ir.Node, int | None], bool],
    edges: dict[ir.Value, list[tuple[ir.Node, int]]],
    outputs: dict[ir.Value, ir.Node],
) -> list[str]:
    followers = []
    for node in model.graph:
        if node.op_type not in target.followers or not enabled(node, None) or fills_with_inf(node):
            continue
        data = data_inputs(node)
        if not data or not all(node.inputs[i] in edges or node.inputs[i] in outputs for i in data):
            continue
        if not all(enabled(node, i) for i in data):
            continue
        followers.append(node.name or "")
        for index in data:
            value = node.inputs[index]
            assert value is not None
            edges.setdefault(value, []).append((node, index))
        outputs[_behind_fused(node, target)] = node
        for value in node.outputs[1:]:
            if quantizable(value):  # MaxPool may answer with indices, too
                outputs[value] = node
    return followers


def _behind_fused(node: ir.Node, target: Target) -> ir.Value:
    """Return the output of a node, or of the activation function that the target fuses into it."""
    out = node.outputs[0]
    if out.is_graph_output():
        return out
    match out.consumers():
        case [reader] if reader.op_type in target.fused and reader.graph is node.graph:
            return reader.outputs[0]
    return out


def _fixed_range(value: ir.Value) -> tuple[float, float] | None:
    producer = value.producer()
    while producer is not None and rule_of(producer).kind == "pass_through":
        source = producer.inputs[0]
        producer = source.producer() if source is not None else None
    return fixed_output_range(producer) if producer is not None else None


def _agreed(points: list[ActivationPoint]) -> tuple[ActivationPoint, ...]:
    """Keep a range by definition only where all tensors that share one have it."""
    by_root: dict[str, set[tuple[float, float] | None]] = {}
    for point in points:
        by_root.setdefault(point.root, set()).add(point.fixed_range)
    return tuple(
        replace(point, fixed_range=None) if len(by_root[point.root]) > 1 else point
        for point in points
    )


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
