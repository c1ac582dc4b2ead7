"""Find the tensors whose channels can be rescaled without changing what a model computes.

Between two layers with a positively homogeneous function in the middle (f(s x) = s f(x) for s > 0: none, ReLU,
LeakyReLU, PReLU, pooling), channel j of the tensor may be divided by any f_j > 0 when the layer before it is
divided and every layer that reads it is multiplied by the same f_j.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from calibrant.graph.ops import is_constant, is_depthwise

__all__ = ["Pair", "Sink", "find_pairs"]

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu"})
_CHANNELWISE = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass(frozen=True, slots=True)
class Sink:
    """A weight that multiplies the channels of a tensor.

    Args:
        weight: Initializer.
        axis: Axis that runs over the tensor's channels.
        output_axis: Axis that runs over the layer's outputs; equal to `axis` for a depthwise layer, which
            has a scale of its own for each channel.
    """

    weight: str
    axis: int
    output_axis: int

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has outputs of its own."""
        return self.axis == self.output_axis


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor between layers that can exchange scale.

    Args:
        source: Node whose output channels are rescaled.
        tensor: Tensor that the sinks read.
        axis: Its channel axis.
        readers: Nodes that read it, all of them.
        source_values: Initializers of the source to divide by f, each with the axis that f lies on.
        sinks: Weights to multiply by f.
    """

    source: str
    tensor: str
    axis: int
    readers: tuple[str, ...]
    source_values: tuple[tuple[str, int], ...]
    sinks: tuple[Sink, ...]


def find_pairs(model: ir.Model) -> list[Pair]:
    """Find every tensor whose channels can be rescaled without changing what the model computes."""
    pairs = []
    for node in model.graph:
        source = _source(node)
        if source is None:
            continue
        value, axis, source_values = source
        value = _through(value, axis)
        if value.is_graph_output() or not value.uses():
            continue
        if any(user.graph is not model.graph for user in value.consumers()):
            continue  # a body (If, Loop) reads it
        sinks = [_sink(use.node, use.idx, value, axis) for use in value.uses()]
        found = [s for s in sinks if s is not None]
        if len(found) != len(sinks):
            continue
        names = [name for name, _ in source_values] + [sink.weight for sink in found]
        if len(set(names)) != len(names) or any(_shared(model, name) for name in names):
            continue
        consumers = tuple(dict.fromkeys(n.name or "" for n in value.consumers()))
        pairs.append(
            Pair(
                node.name or "",
                value.name or "",
                axis,
                consumers,
                source_values,
                tuple(found),
            )
        )
    return pairs


def _source(node: ir.Node) -> tuple[ir.Value, int, tuple[tuple[str, int], ...]] | None:
    """Return the output whose channels a node can rescale, its axis, and the values to divide."""
    op = node.op_type
    inputs = node.inputs
    if op in ("Conv", "ConvTranspose"):
        if not all(is_constant(v) for v in inputs[1:]) or (op != "Conv" and _groups(node) != 1):
            return None
        values = [(_name(inputs[1]), 0 if op == "Conv" else 1)]
        values += [(_name(v), 0) for v in inputs[2:3] if v is not None]
        return node.outputs[0], 1, tuple(values)
    if op == "Gemm":
        if not all(is_constant(v) for v in inputs[1:]):
            return None
        values = [(_name(inputs[1]), 0 if _int(node, "transB") else 1)]
        for bias in inputs[2:3]:
            if bias is not None:
                if bias.shape is None or len(bias.shape) != 1:
                    return None
                values.append((_name(bias), 0))
        return node.outputs[0], 1, tuple(values)
    if op == "LayerNormalization":
        if not all(is_constant(v) for v in inputs[1:]) or _int(node, "axis", -1) not in (-1,):
            return None
        shape = node.outputs[0].shape
        if shape is None:
            return None
        values = [(_name(v), 0) for v in inputs[1:3] if v is not None]
        return node.outputs[0], len(shape) - 1, tuple(values)
    return None


def _through(value: ir.Value, axis: int) -> ir.Value:
    """Follow a value through the functions that let a positive factor on a channel of `axis` pass."""
    while not value.is_graph_output():
        match tuple(value.uses()):
            case [use] if use.idx == 0 and _passes(use.node, axis):
                value = use.node.outputs[0]
            case _:
                break
    return value


def _passes(node: ir.Node, axis: int) -> bool:
    if node.op_type in _CHANNELWISE:  # they pool over every axis behind the second
        return axis == 1
    return node.op_type in _HOMOGENEOUS and all(is_constant(v) for v in node.inputs[1:])


def _sink(node: ir.Node, index: int, value: ir.Value, axis: int) -> Sink | None:
    """Return the weight that a reader multiplies the channels of a tensor's axis with, if it does."""
    if index != 0 or len(node.inputs) < 2 or not is_constant(node.inputs[1]):
        return None
    weight = node.inputs[1]
    assert weight is not None
    rank = len(weight.shape) if weight.shape is not None else 0
    name = _name(weight)
    last = len(value.shape) - 1 if value.shape is not None else None
    if axis != (1 if node.op_type in ("Conv", "ConvTranspose") else last):
        return None
    if node.op_type == "Conv":
        if _groups(node) == 1:
            return Sink(name, 1, 0)
        assert weight.shape is not None
        one_each = is_depthwise(node) and weight.shape[0] == _groups(node)
        return Sink(name, 0, 0) if one_each else None
    if node.op_type == "ConvTranspose":
        return Sink(name, 0, 1) if _groups(node) == 1 else None
    if node.op_type == "Gemm" and not _int(node, "transA"):
        return Sink(name, 1, 0) if _int(node, "transB") else Sink(name, 0, 1)
    if node.op_type == "MatMul" and rank == 2:
        return Sink(name, 0, 1)
    return None


def _shared(model: ir.Model, name: str) -> bool:
    value = model.graph.initializers[name]
    return len(value.uses()) != 1 or value.is_graph_output()


def _groups(node: ir.Node) -> int:
    return _int(node, "group", 1)


def _int(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default


def _name(value: ir.Value | None) -> str:
    assert value is not None
    return value.name or ""
