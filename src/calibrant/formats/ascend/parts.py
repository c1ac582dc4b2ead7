"""The graphs of the Ascend tools: integers between quantizers and dequantizers, layer by layer.

Both graphs have one shape, and a `Style` says what their nodes are:

    x -> quantize(1 / scale_d, offset) -> layer with integer weight and bias -> dequantize(scale_d * scale_w)

A layer with a quantized weight and an average pooling run on integers. Any other reader of a quantized tensor
(MaxPool, Add, a product of two activations) gets the float values back in front of it.

Source: docs/reference/artefacts.md, "Files of --format ascend".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit._bias import set_bias
from calibrant.errors import ModelError, UnsupportedError
from calibrant.graph.ops import bias_of
from calibrant.graph.values import Names, add_constant, drop_unused_initializers, values_by_name
from calibrant.numerics import QuantParams
from calibrant.plan import ActivationDecision, Edge, Plan, WeightDecision
from calibrant.plan.parameters import LayerParameters, Parameters

__all__ = [
    "AscendGraph",
    "Builder",
    "Edge",
    "Style",
    "build",
    "check_expressible",
    "quantized_edges",
]

#: A node, and the index of the input that is quantized.

_INT32 = np.iinfo(np.int32)
_POOLS = frozenset({"AveragePool", "GlobalAveragePool"})


class Style(Protocol):
    """What the nodes of a graph are; the names of nodes begin with `name`, and the last one gives the result."""

    #: Whether equal quantizers on one tensor are one.
    merges: bool

    def quantize(self, b: Builder, x: ir.Value, p: QuantParams, name: str) -> list[ir.Node]:
        """Return the nodes that make integers of a tensor."""
        ...

    def restore(self, b: Builder, q: ir.Value, p: QuantParams, name: str) -> list[ir.Node]:
        """Return the nodes that make floats of integers."""
        ...

    def weight(self, node: ir.Node, index: int, w: LayerParameters) -> npt.NDArray[np.generic]:
        """Return integers as the graph stores them."""
        ...

    def bias(self, steps: npt.NDArray[np.int32]) -> npt.NDArray[np.generic]:
        """Return the integers of a bias as the graph stores them."""
        ...

    def dequantize(
        self, b: Builder, y: ir.Value, scale: npt.NDArray[np.float32], axis: int, name: str
    ) -> list[ir.Node]:
        """Return the nodes that bring the sums of a layer back; `scale` is () or runs along `axis`."""
        ...


@dataclass(slots=True)
class Builder:
    """Makes nodes and constants of one graph."""

    graph: ir.Graph
    names: Names

    def constant(self, name: str, data: npt.NDArray[np.generic]) -> ir.Value:
        """Add an initializer."""
        return add_constant(self.graph, self.names.fresh(name), data)

    def node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        attributes: tuple[ir.Attr, ...] = (),
    ) -> ir.Node:
        """Return a node whose output has the shape of its first input."""
        node = ir.Node("", op_type, inputs, attributes, name=self.names.fresh(name))
        out = node.outputs[0]
        out.name = self.names.fresh(f"{name}_output")
        out.shape, out.type = inputs[0].shape, ir.TensorType(dtype)
        return node


@dataclass(frozen=True, slots=True)
class AscendGraph:
    """A graph, and the nodes of each quantized edge in it.

    Args:
        model: The graph.
        quantizers: Names of the nodes in front of each edge.
        dequantizers: Names of the nodes behind each.
    """

    model: ir.Model
    quantizers: Mapping[Edge, tuple[str, ...]]
    dequantizers: Mapping[Edge, tuple[str, ...]]


@dataclass(slots=True)
class _Walk:
    style: Style
    b: Builder
    plan: Plan
    params: Parameters
    quantizers: dict[Edge, tuple[str, ...]] = field(default_factory=dict)
    dequantizers: dict[Edge, tuple[str, ...]] = field(default_factory=dict)
    made: dict[tuple[object, ...], list[ir.Node]] = field(default_factory=dict)
    integer: set[Edge] = field(default_factory=set)


def check_expressible(plan: Plan) -> None:
    """Refuse what these graphs have no form for.

    Raises:
        UnsupportedError: A tensor has scales by channel or is compensated, or a weight is quantized whose
            input is not.
    """
    edges = {edge for d in plan.activations for edge in d.users}
    reasons = [
        f"tensor '{d.tensor}' has {what}"
        for d in plan.activations
        for asked, what in (
            (d.spec.axis is not None, "a scale for each channel"),
            (d.compensation, "a second value that compensates the error of the first"),
        )
        if asked
    ]
    for w in plan.weights:
        if w.compensation:
            reasons.append(f"the weight of layer '{w.layer}' is compensated by a second one")
        if (w.layer, 1 - w.input_index) not in edges:
            reasons.append(f"layer '{w.layer}' has a quantized weight and an input in float")
        if w.input_index == 0 and w.spec.axis is not None:
            reasons.append(
                f"the weight of '{w.layer}' is a left operand with a scale for each row"
            )
    if reasons:
        raise UnsupportedError(
            f"The Ascend graphs cannot say it: {'; '.join(reasons)}. Leave out the format ascend, or quantize "
            "these with one scale a tensor, or skip them."
        )


def build(model: ir.Model, plan: Plan, params: Parameters, style: Style) -> AscendGraph:
    """Write a prepared float model as a graph of this style.

    Args:
        model: A prepared float model; it is not changed.
        plan: Where quantizers stand.
        params: What they are.
        style: What nodes look like.

    Raises:
        UnsupportedError: The graph has no form for what the plan asks.
        ModelError: A bias does not fit 32 bits.
    """
    check_expressible(plan)
    model = model.clone()
    graph = model.graph
    walk = _Walk(style, Builder(graph, Names(graph)), plan, params)
    nodes = {node.name or "": node for node in graph}
    inputs = {edge: params.activations[d.id] for d in plan.activations for edge in d.users}
    for w in plan.weights:
        _layer(walk, nodes[w.layer], w, inputs[w.layer, 1 - w.input_index])
    for (name, index), p in inputs.items():
        if nodes[name].op_type in _POOLS and index == 0:
            _dequantize(walk, nodes[name], nodes[name], p.scale, 1, (name, 0))
    values = values_by_name(graph)
    for d in sorted(plan.activations, key=lambda d: d.producer is not None):
        _quantizer(walk, values[d.tensor], d, nodes)
    drop_unused_initializers(graph)
    graph.sort()
    return AscendGraph(model, walk.quantizers, walk.dequantizers)


# -------------------------------------------------------------------------------------------- layers


def _layer(walk: _Walk, node: ir.Node, w: WeightDecision, p: QuantParams) -> None:
    """Let a layer read integers: weight, bias, and what comes behind."""
    chosen = walk.params.layers[w.layer]
    data = walk.style.weight(node, w.input_index, chosen)
    own = chosen.weight.scale
    group = node.attributes.get("group")
    if node.op_type == "ConvTranspose" and own.ndim and group is not None:
        own = np.tile(own, group.as_int())
    scale = _scale(walk.plan, np.asarray(p.scale * own, dtype=np.float32))  # () or (out,)
    bias = _bias(node, chosen)
    tail = node
    place = bias_of(node)
    if place is not None and bias is not None:
        tail = place[0]
        if tail is not node and _is_quantized(walk, node.outputs[0]):
            tail = node  # what the Add reads is quantized first: its constant stays float
            place[0].replace_input_with(place[1], walk.b.constant(f"{w.layer}.bias", bias))
        else:
            steps = walk.style.bias(_steps(bias, scale, w.layer))
            place[0].replace_input_with(place[1], walk.b.constant(f"{w.layer}.bias", steps))
    elif bias is not None:
        steps = walk.style.bias(_steps(bias, scale, w.layer))
        set_bias(walk.b.graph, walk.b.names, node, walk.b.constant(f"{w.layer}.bias", steps), {})
        made = bias_of(node)
        assert made is not None
        tail = made[0]  # a MatMul gets an Add
    node.replace_input_with(w.input_index, walk.b.constant(f"{w.layer}.weight", data))
    axis = 1 if node.op_type in ("Conv", "ConvTranspose") else -1
    _dequantize(walk, node, tail, scale, axis, (w.layer, 1 - w.input_index))


def _scale(plan: Plan, scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return scale_d * scale_w as the device keeps it: a float of 19 bits where scales are forced into float16.

    Source: docs/reference/ascend-configurations.md, "Scales through float16".
    """
    if not plan.half_scales:
        return scale
    kept = np.atleast_1d(scale).view(np.uint32) & np.uint32(0xFFFFE000)
    cut: npt.NDArray[np.float32] = kept.view(np.float32).reshape(scale.shape)
    return cut


def _bias(node: ir.Node, chosen: LayerParameters) -> npt.NDArray[np.float32] | None:
    """Return the bias: the corrected one, the model's own, or None."""
    if chosen.bias is not None:
        return chosen.bias
    place = bias_of(node)
    value = place[0].inputs[place[1]] if place is not None else None
    if value is None or value.const_value is None:
        return None
    own: npt.NDArray[np.float32] = value.const_value.numpy().astype(np.float32)
    return own


def _steps(
    bias: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], layer: str
) -> npt.NDArray[np.int32]:
    """Round a bias to the steps of the sums it is added to: round(bias / (scale_d * scale_w))."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    if not ((steps >= _INT32.min) & (steps <= _INT32.max)).all():
        worst = steps.flat[np.nanargmax(np.abs(steps))]
        raise ModelError(
            f"The bias of layer '{layer}' is {worst:.4g} steps of its scales, and a bias has 32 bits. Leave the "
            f"layer in float (--skip '{layer}'), or quantize its input and its weight with larger scales."
        )
    return steps.astype(np.int32)


def _is_quantized(walk: _Walk, value: ir.Value) -> bool:
    return any(d.tensor == value.name for d in walk.plan.activations)


def _dequantize(
    walk: _Walk,
    layer: ir.Node,
    tail: ir.Node,
    scale: npt.NDArray[np.float32],
    axis: int,
    edge: Edge,
) -> None:
    """Put the dequantizer behind `tail`; the tensor's name goes to its result."""
    out = tail.outputs[0]
    made = walk.style.dequantize(walk.b, out, scale, axis, layer.name or "")
    first, last = made[0], made[-1].outputs[0]
    last.shape = out.shape
    out.replace_all_uses_with(last, replace_graph_outputs=True)
    first.replace_input_with(0, out)
    name = out.name
    out.name = walk.b.names.fresh(f"{layer.name}.sums")
    last.name = name
    walk.b.graph.insert_after(tail, made)
    walk.integer.add(edge)
    walk.dequantizers[edge] = tuple(n.name or "" for n in made)


# ---------------------------------------------------------------------------------------- quantizers


def _quantizer(
    walk: _Walk, source: ir.Value, d: ActivationDecision, nodes: Mapping[str, ir.Node]
) -> None:
    """Put one quantizer behind a tensor, for the edges that read it quantized, or for all readers."""
    p = walk.params.activations[d.id]
    if d.producer is not None:
        _for_every_reader(walk, source, d, p, nodes)
        return
    for edge in d.users:
        _for_edge(walk, source, edge, p, nodes[edge[0]])


def _for_edge(walk: _Walk, source: ir.Value, edge: Edge, p: QuantParams, reader: ir.Node) -> None:
    name = _name(edge, walk)
    made = _made(walk, source, p, name)
    q = made[-1].outputs[0]
    restored: list[ir.Node] = []
    if edge in walk.integer:
        reader.replace_input_with(edge[1], q)
    else:
        restored = _restored(walk, q, p, name)
        reader.replace_input_with(edge[1], restored[-1].outputs[0])
        walk.dequantizers[edge] = tuple(n.name or "" for n in restored)
    walk.quantizers[edge] = tuple(n.name or "" for n in made)


def _for_every_reader(
    walk: _Walk,
    source: ir.Value,
    d: ActivationDecision,
    p: QuantParams,
    nodes: Mapping[str, ir.Node],
) -> None:
    """Let all readers of a tensor, the graph's outputs too, take it quantized."""
    uses = tuple(source.uses())
    was_output = source.is_graph_output()
    edges = [*d.users] or [(d.producer or "", 0)]
    name = _name(edges[0], walk)
    made = _made(walk, source, p, name)
    q = made[-1].outputs[0]
    restored = _restored(walk, q, p, name)
    back = restored[-1].outputs[0]
    for use in uses:
        edge = (use.node.name or "", use.idx)
        reads_integers = edge in walk.integer and edge in d.users
        use.node.replace_input_with(use.idx, q if reads_integers else back)
    for edge in edges:
        walk.quantizers[edge] = tuple(n.name or "" for n in made)
        if edge not in walk.integer:
            walk.dequantizers[edge] = tuple(n.name or "" for n in restored)
    if was_output:
        for i, output in enumerate(walk.b.graph.outputs):
            if output is source:
                walk.b.graph.outputs[i] = back
        name_of_output = source.name
        source.name = walk.b.names.fresh(f"{name_of_output}__float")
        back.name = name_of_output
    elif not back.uses():
        for n in reversed(restored):
            walk.b.graph.remove(n, safe=True)


def _name(edge: Edge, walk: _Walk) -> str:
    """Return the head of the names at an edge: the layer's, and the input's number where it has several."""
    several = sum(e[0] == edge[0] for d in walk.plan.activations for e in d.users) > 1
    return f"{edge[0]}.input{edge[1]}" if several else edge[0]


def _made(walk: _Walk, source: ir.Value, p: QuantParams, name: str) -> list[ir.Node]:
    """Return the quantizer of a tensor: a new one, or an equal one that is there."""
    key = ("quantize", source.name, p.scale.tobytes(), p.zero_point.tobytes(), p.dtype.bits)
    if not walk.style.merges or key not in walk.made:
        made = walk.style.quantize(walk.b, source, p, name)
        _insert(walk, source.producer(), made)
        walk.made[key] = made
    return walk.made[key]


def _restored(walk: _Walk, q: ir.Value, p: QuantParams, name: str) -> list[ir.Node]:
    key = ("restore", q.name)
    if not walk.style.merges or key not in walk.made:
        made = walk.style.restore(walk.b, q, p, name)
        _insert(walk, q.producer(), made)
        walk.made[key] = made
    return walk.made[key]


def _insert(walk: _Walk, behind: ir.Node | None, made: list[ir.Node]) -> None:
    if behind is not None:
        walk.b.graph.insert_after(behind, made)
    else:
        walk.b.graph.insert_before(next(iter(walk.b.graph)), made)


def quantized_edges(plan: Plan) -> Iterator[tuple[Edge, ActivationDecision]]:
    """Yield every edge that reads a quantized tensor."""
    for d in plan.activations:
        for edge in d.users:
            yield edge, d
