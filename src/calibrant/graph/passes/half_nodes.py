"""Nodes that read and give float16 and compute in between in float32, as kernels do that sum in float32.

    x -> Cast 16 -> Cast 32 -> node -> Cast 16 -> Cast 32 -> y          constants are rounded once

It simulates such a node on every runtime; `half` makes it compute in float16. Passes edit in place.

Source: docs/how-to/rank-layers.md, "Two questions".
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.values import Names, add_constant

__all__ = ["in_front_of_rounding", "round_layers", "round_node", "rounded", "unround_node"]


def rounded(x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return float32 values rounded to float16, those beyond 65504 infinite; other arrays as they are."""
    if x.dtype != np.float32:
        return x
    with np.errstate(over="ignore"):
        return np.asarray(x.astype(np.float16).astype(np.float32))


def round_layers(model: ir.Model, layers: Collection[str]) -> None:
    """Let some nodes of a model read and give float16."""
    graph = model.graph
    names = Names(graph)
    for node in [n for n in graph if n.name in layers]:
        for index, source in enumerate(node.inputs):
            if source is None or source.dtype not in (None, ir.DataType.FLOAT):
                continue
            if source.const_value is not None:
                floats = rounded(source.const_value.numpy())
                name = names.fresh(f"{node.name}__half_{index}")
                node.replace_input_with(index, add_constant(graph, name, floats))
                continue
            pair = _pair(names, source)
            graph.insert_before(node, pair)
            node.replace_input_with(index, pair[-1].outputs[0])
        round_node(model, node.name or "", names)


def round_node(model: ir.Model, name: str, names: Names | None = None) -> None:
    """Round what a node gives to float16 and back; beyond 65504 it becomes infinite, as it does there."""
    graph = model.graph
    names = names or Names(graph)
    node = graph.node(name)
    outputs = list(graph.outputs)
    for value in node.outputs:
        if value.dtype not in (None, ir.DataType.FLOAT):
            continue
        uses = tuple(value.uses())
        pair = _pair(names, value)
        graph.insert_after(node, pair)
        up = pair[-1].outputs[0]
        for use in uses:
            use.node.replace_input_with(use.idx, up)
        if value in outputs:
            known = value.name or ""
            value.name = names.fresh(f"{known}__unrounded")
            up.name = known
            graph.outputs[outputs.index(value)] = up


def unround_node(model: ir.Model, name: str) -> None:
    """Take the rounding of what a node gives out again."""
    graph = model.graph
    node = graph.node(name)
    for value in node.outputs:
        down = next((u.node for u in value.uses() if _casts(u.node, ir.DataType.FLOAT16)), None)
        ups = [u.node for u in down.outputs[0].uses()] if down is not None else []
        if down is None or len(ups) != 1 or not _casts(ups[0], ir.DataType.FLOAT):
            continue
        up = ups[0].outputs[0]
        known = up.name
        up.replace_all_uses_with(value, replace_graph_outputs=True)
        graph.remove([ups[0], down], safe=True)
        value.name = known


def in_front_of_rounding(value: ir.Value) -> ir.Value:
    """Return the tensor that a rounded one is made of."""
    up = value.producer()
    assert up is not None
    source = up.inputs[0]
    down = source.producer() if source is not None else None
    assert down is not None
    assert down.inputs[0] is not None
    return down.inputs[0]


def _casts(node: ir.Node, dtype: ir.DataType) -> bool:
    to = node.attributes.get("to")
    return node.op_type == "Cast" and to is not None and to.as_int() == int(dtype)


def _pair(names: Names, value: ir.Value) -> list[ir.Node]:
    down = _cast(names, value, ir.DataType.FLOAT16)
    return [down, _cast(names, down.outputs[0], ir.DataType.FLOAT)]


def _cast(names: Names, value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))])
    node.name = names.fresh(f"{value.name}__cast")
    node.outputs[0].name = names.fresh(f"{value.name}__cast_output")
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), value.shape
    return node
