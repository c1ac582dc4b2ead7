"""Compute chosen nodes in float16: Cast at the borders of each island, float16 constants inside.

Between two nodes of an island nothing is cast. A tensor that leaves an island keeps its name in float32, so
whoever reads it (a quantizer, an output, a float32 node) finds it as before. Constants beyond the range of
float16 are clipped to +-65504 and counted. A node whose values go beyond it saturates: a Clip stands in front of
the Cast at its inputs, and behind its outputs.

Source: docs/explanation/grid.md, "Float16 beside it".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrant.graph.ops import OP_RULES, is_constant
from calibrant.graph.values import add_constant

__all__ = ["HALF_MAX", "Island", "as_float32", "can_be_half", "to_half"]

HALF_MAX = 65504.0

#: Operators beside those of the operator table that compute in float16 as they do in float32.
_MORE = frozenset(
    {
        "BatchNormalization",
        "Erf",
        "Exp",
        "InstanceNormalization",
        "LayerNormalization",
        "Log",
        "Neg",
        "Pow",
        "Reciprocal",
        "ReduceMax",
        "ReduceSum",
        "RMSNormalization",
        "Sqrt",
        "Where",
    }
)
#: How the Clips behind saturating nodes are named.
_SATURATED = "__saturate_output"

_KEEP = frozenset({"Resize"})  # its scales are float32 whatever the data is

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


@dataclass(frozen=True, slots=True)
class Island:
    """One node that computes in float16.

    Args:
        node: Its name.
        clipped: How many of its constants were beyond +-65504.
        overflows: How many values of the probe's samples were, at its inputs and outputs; they saturate.
    """

    node: str
    clipped: int
    overflows: int = 0


def can_be_half(node: ir.Node) -> bool:
    """Say whether a node can compute in float16."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _KEEP:
        return False
    if node.op_type not in OP_RULES and node.op_type not in _MORE:
        return False
    return any(v is not None and v.dtype == FLOAT for v in node.inputs) and all(
        v.dtype in (FLOAT, None) for v in node.outputs
    )


def to_half(
    model: ir.Model, names: Collection[str], overflows: Mapping[str, int] | None = None
) -> list[Island]:
    """Compute nodes in float16, in place.

    Args:
        model: A prepared float32 model.
        names: Nodes for which `can_be_half` holds.
        overflows: Node -> how many of its values are beyond the range of float16.

    Returns:
        One entry a node.
    """
    graph = model.graph
    halves: dict[ir.Value, ir.Value] = {}  # float32 value -> the same in float16
    islands = []
    for node in list(graph):
        if node.name not in names:
            continue
        clipped, beyond = 0, (overflows or {}).get(node.name or "", 0)
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != FLOAT:
                continue
            if value not in halves:
                if is_constant(value):
                    halves[value], count = _constant(graph, value)
                    clipped += count
                else:
                    halves[value] = _cast_before(node, value, saturate=beyond > 0)
            node.replace_input_with(index, halves[value])
        for output in node.outputs:
            back, half = _cast_behind(node, output, saturate=beyond > 0)
            halves[back] = half
        islands.append(Island(node.name or "", clipped, beyond))
    _drop_unread_casts(graph)
    return islands


def as_float32(model: ir.Model, names: Collection[str]) -> ir.Model:
    """Copy a model in which `to_half` was at work, with the same nodes, so that it computes in float32.

    Constants keep what float16 made of them.
    """
    model = model.clone()
    read: set[ir.Value] = set()
    for node in model.graph:
        if node.name in names or (node.name or "").endswith(_SATURATED):
            read.update(v for v in node.inputs if v is not None and v.dtype == HALF)
            for output in node.outputs:
                output.type = ir.TensorType(FLOAT)
    for value in read:
        value.type = ir.TensorType(FLOAT)
        node_before = value.producer()
        if node_before is not None and node_before.op_type == "Cast":
            node_before.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
        elif value.const_value is not None:
            data = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(data, name=value.name)
    return model


def _constant(graph: ir.Graph, value: ir.Value) -> tuple[ir.Value, int]:
    assert value.const_value is not None
    data = value.const_value.numpy()
    clipped = int((np.abs(data) > HALF_MAX).sum())
    half = np.clip(data, -HALF_MAX, HALF_MAX).astype(np.float16)
    name = f"{value.name}__float16"
    if name in graph.initializers:
        return graph.initializers[name], clipped
    new = ir.Value(
        name=name,
        const_value=ir.tensor(half, name=name),
        shape=ir.Shape(half.shape),
        type=ir.TensorType(HALF),
    )
    graph.register_initializer(new)
    return new, clipped


def _cast_before(node: ir.Node, value: ir.Value, *, saturate: bool) -> ir.Value:
    """Cast a float32 value in front of its first reader in an island."""
    source = value
    if saturate:
        clip = _clip(node, value, np.dtype(np.float32), f"{value.name}__saturate")
        node.prepend(clip)
        source = clip.outputs[0]
    cast = _cast(source, HALF, f"{value.name}__to_float16")
    node.prepend(cast)
    return cast.outputs[0]


def _clip(node: ir.Node, value: ir.Value, dtype: np.dtype[np.floating], name: str) -> ir.Node:
    """Return a node that holds a value within the range of float16."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    bounds = []
    for sign, end in ((-1, "low"), (1, "high")):
        key = f"float16_{end}__{dtype.name}"
        if key not in graph.initializers:
            add_constant(graph, key, np.array(sign * HALF_MAX, dtype=dtype))
        bounds.append(graph.initializers[key])
    clip = ir.Node("", "Clip", [value, *bounds], name=name)
    clip.outputs[0].name = f"{name}_output"
    clip.outputs[0].shape, clip.outputs[0].type = value.shape, value.type
    return clip


def _cast_behind(node: ir.Node, output: ir.Value, *, saturate: bool) -> tuple[ir.Value, ir.Value]:
    """Let a node's output be float16, and cast it back for every reader, under its own name.

    Returns the float32 value, and the float16 one that readers in an island take when their turn comes.
    """
    cast = _cast(output, FLOAT, f"{output.name}__to_float32")
    back = cast.outputs[0]
    name, shape = output.name, output.shape
    output.replace_all_uses_with(back, replace_graph_outputs=True)
    cast.replace_input_with(0, output)
    output.name, output.type = f"{name}__float16", ir.TensorType(HALF)
    back.name, back.shape, back.type = name, shape, ir.TensorType(FLOAT)
    node.append(cast)
    if not saturate:
        return back, output
    clip = _clip(node, output, np.dtype(np.float16), f"{name}{_SATURATED}")
    node.append(clip)
    cast.replace_input_with(0, clip.outputs[0])
    return back, clip.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=name)
    node.outputs[0].name = f"{name}_output"
    node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(dtype)
    return node


def _drop_unread_casts(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        out = node.outputs[0]
        if node.op_type == "Cast" and not out.uses() and not out.is_graph_output():
            graph.remove(node, safe=True)
