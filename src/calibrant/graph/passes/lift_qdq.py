"""Take the quantizers out of a QDQ model and keep what they say: a trained model's own scales.

    x -> QuantizeLinear -> DequantizeLinear -> Conv        becomes        x -> Conv
    integers -> DequantizeLinear -> Conv                   becomes        floats -> Conv

The floats are the values that the integers stand for, so a constant that was rounded stays rounded. Layout
operators between a weight and its reader are applied to the weight, and its scale's axis moves with them.

Source: docs/how-to/other-tools.md, "Keep the scales of a trained model".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import ModelError
from calibrant.graph.passes.constants import fold_constants
from calibrant.graph.values import Names, add_constant, drop_unused_initializers
from calibrant.numerics import QuantParams
from calibrant.numerics.dtype import IntType

__all__ = ["LiftedQuantizer", "lift_quantizers", "params_of"]

#: Storage type -> width, and how far its grid lies above the signed one.
_TYPES = {
    ir.DataType.INT4: (4, 0),
    ir.DataType.INT8: (8, 0),
    ir.DataType.UINT8: (8, 128),
    ir.DataType.INT16: (16, 0),
    ir.DataType.UINT16: (16, 32768),
}


@dataclass(frozen=True, slots=True, eq=False)
class LiftedQuantizer:
    """One quantizer that a model held.

    Args:
        tensor: What it quantizes.
        params: Its scale and zero point, on the signed grid.
        users: Edges (node, input index) that read the quantized tensor, those in bodies too.
        is_output: The quantized tensor is an output of the model.
        is_constant: The tensor is a constant: a weight.
    """

    tensor: str
    params: QuantParams
    users: tuple[tuple[str, int], ...]
    is_output: bool
    is_constant: bool


def lift_quantizers(model: ir.Model) -> list[LiftedQuantizer]:
    """Take every QuantizeLinear and DequantizeLinear out of a prepared model, in place.

    Args:
        model: A prepared model (constants are initializers, nodes have names).

    Returns:
        One entry a quantizer, in graph order. A DequantizeLinear of int32, which holds a bias, leaves its
        values only.

    Raises:
        ModelError: A quantizer whose scale is computed, in blocks, or of a type that is not quantized to
            here; integers that an operator reads as they are.
    """
    graph = model.graph
    names = Names(graph)
    _name_outputs(graph, names)
    found: list[LiftedQuantizer] = []
    for node in [n for n in graph if n.op_type == "QuantizeLinear"]:
        found += _pair(graph, node)
    for node in [n for n in graph if n.op_type == "DequantizeLinear"]:
        found += _constant(graph, names, node)
    drop_unused_initializers(graph)
    moved = list(_without_layout(model, found))
    order = {node.name or "": i for i, node in enumerate(graph)}
    return sorted(
        moved,
        key=lambda q: min((order.get(n, len(order)) for n, _ in q.users), default=len(order)),
    )


def _name_outputs(graph: ir.Graph, names: Names) -> None:
    """Give the tensor behind a quantized output of the model the output's name, which it will be."""
    for out in graph.outputs:
        back = out.producer()
        quantize = (
            back.inputs[0] if back is not None and back.op_type == "DequantizeLinear" else None
        )
        maker = quantize.producer() if quantize is not None else None
        source = (
            maker.inputs[0] if maker is not None and maker.op_type == "QuantizeLinear" else None
        )
        if source is None:
            continue
        if source.is_graph_output() or source.producer() is None:
            raise ModelError(
                f"Output '{out.name}' of the model is '{source.name}' quantized, which is an input, a constant or an "
                "output itself."
            )
        out.name, source.name = names.fresh(f"{out.name}__quantized"), out.name


def _pair(graph: ir.Graph, quantize: ir.Node) -> Iterator[LiftedQuantizer]:
    """Take out a QuantizeLinear and what dequantizes its integers."""
    source = quantize.inputs[0]
    assert source is not None
    params = _params(quantize, _zero_type(quantize))
    for use in list(quantize.outputs[0].uses()):
        reader = use.node
        if reader.op_type != "DequantizeLinear" or use.idx != 0:
            raise ModelError(
                f"Node '{reader.name}' ({reader.op_type}) reads the integers of quantizer '{quantize.name}'. Only "
                "models whose operators read floats (QuantizeLinear, DequantizeLinear) are taken apart."
            )
        back = _params(reader, _zero_type(quantize))
        if not np.array_equal(back.scale, params.scale) or not np.array_equal(
            back.zero_point, params.zero_point
        ):
            raise ModelError(
                f"'{quantize.name}' and '{reader.name}' are one quantizer with two scales or zero points; "
                "they have one."
            )
        users, is_output = _bypass(graph, reader, source)
        constant = source.const_value is not None and not source.is_graph_input()
        yield LiftedQuantizer(source.name or "", params, users, is_output, constant)
    if quantize.outputs[0].is_graph_output():
        raise ModelError(f"Output '{quantize.outputs[0].name}' of the model is integers.")
    graph.remove(quantize, safe=True)


def _constant(graph: ir.Graph, names: Names, node: ir.Node) -> Iterator[LiftedQuantizer]:
    """Put floats into the place of dequantized integers."""
    source = node.inputs[0]
    tensor = source.const_value if source is not None else None
    if source is None or tensor is None or source.is_graph_input():
        raise ModelError(
            f"Node '{node.name}' dequantizes a tensor that is computed as integers; only constants and what "
            "QuantizeLinear made are taken apart."
        )
    scale, axis = _scale(node, len(tensor.shape))
    q = tensor.numpy().astype(np.int64)
    zero = _zero_point(node, scale.shape)
    values = (q - _along(zero, axis, q.ndim)) * _along(scale, axis, q.ndim).astype(np.float64)
    name = names.fresh(f"{node.outputs[0].name}__float")
    value = add_constant(graph, name, values.astype(np.float32))
    params = None if tensor.dtype == ir.DataType.INT32 else _params(node, tensor.dtype)
    users, is_output = _bypass(graph, node, value)
    if params is not None:  # int32 is a bias, which has no quantizer of its own
        yield LiftedQuantizer(name, params, users, is_output, is_constant=True)


def _bypass(
    graph: ir.Graph, node: ir.Node, source: ir.Value
) -> tuple[tuple[tuple[str, int], ...], bool]:
    """Let the readers of a DequantizeLinear read `source`; return them, and whether it is an output."""
    out = node.outputs[0]
    users = tuple((u.node.name or "", u.idx) for u in out.uses())
    is_output = any(v is out for v in graph.outputs)
    if (
        out.is_graph_output() and not is_output
    ):  # a body hands it on, which takes a node of its own
        node.op_type = "Identity"
        node.attributes.clear()
        node.resize_inputs(1)
        node.replace_input_with(0, source)
        return (*users, (node.name or "", 0)), False
    out.replace_all_uses_with(source, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return users, is_output


# ------------------------------------------------------------------------------------------ parameters


def params_of(quantize: ir.Node) -> QuantParams:
    """Return scale and zero point of a QuantizeLinear, on the signed grid.

    Raises:
        ModelError: They are computed, in blocks, or of a type that is not quantized to here.
    """
    return _params(quantize, _zero_type(quantize))


def _zero_type(node: ir.Node) -> ir.DataType:
    """Type that a QuantizeLinear answers in: that of its zero point, or what it is told, or uint8."""
    if _has_zero(node):
        zero = node.inputs[2]
        assert zero is not None
        if zero.const_value is not None:
            return zero.const_value.dtype
    told = node.attributes.get("output_dtype")
    return ir.DataType(told.as_int()) if told is not None and told.as_int() else ir.DataType.UINT8


def _has_zero(node: ir.Node) -> bool:
    return len(node.inputs) > 2 and node.inputs[2] is not None


def _params(node: ir.Node, dtype: ir.DataType) -> QuantParams:
    source = node.inputs[0]
    rank = len(source.shape) if source is not None and source.shape is not None else None
    scale, axis = _scale(node, rank)
    if dtype not in _TYPES:
        known = ", ".join(t.name.lower() for t in _TYPES)
        raise ModelError(
            f"Quantizer '{node.name}' is of type {dtype.name.lower()}; {known} are understood."
        )
    bits, above = _TYPES[dtype]
    zero = _zero_point(node, scale.shape).astype(np.int32)
    return QuantParams(scale, zero - np.int32(above), IntType(bits), axis)


def _zero_point(node: ir.Node, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    if not _has_zero(node):
        return np.zeros(shape, np.int64)
    value = node.inputs[2]
    if value is None or value.const_value is None:
        raise ModelError(f"The zero point of quantizer '{node.name}' is computed, not constant.")
    return value.const_value.numpy().astype(np.int64).reshape(shape)


def _scale(node: ir.Node, rank: int | None) -> tuple[npt.NDArray[np.float32], int | None]:
    """Return the scale, () or (channels,), and its axis."""
    value = node.inputs[1]
    if value is None or value.const_value is None or value.is_graph_input():
        raise ModelError(f"The scale of quantizer '{node.name}' is computed, not constant.")
    block = node.attributes.get("block_size")
    scale = value.const_value.numpy().astype(np.float32)
    if scale.ndim > 1 or (block is not None and block.as_int() > 0):
        raise ModelError(
            f"Quantizer '{node.name}' has a scale for each block; one for the tensor or one for each channel is "
            "understood."
        )
    if scale.size == 1:
        return scale.reshape(()), None
    told = node.attributes.get("axis")
    axis = told.as_int() if told is not None else 1
    if axis < 0:
        if rank is None:
            raise ModelError(f"The axis {axis} of quantizer '{node.name}' needs a known rank.")
        axis += rank
    return scale, axis


def _along(x: npt.NDArray[Any], axis: int | None, rank: int) -> npt.NDArray[Any]:
    if x.size == 1 or axis is None:
        return x.reshape(())
    return x.reshape([-1 if i == axis else 1 for i in range(rank)])


# ---------------------------------------------------------------------------------------------- layout


def _without_layout(
    model: ir.Model, found: Sequence[LiftedQuantizer]
) -> Iterator[LiftedQuantizer]:
    """Apply the transpositions between weights and their readers, and name the readers behind them."""
    graph = model.graph
    nodes = {n.name or "": n for n in graph}
    behind: list[LiftedQuantizer] = []
    for q in found:
        if not q.is_constant:
            behind.append(q)
            continue
        for name, index in q.users:
            node, params = nodes.get(name), q.params
            if node is None or node.op_type != "Transpose":
                behind.append(replace(q, users=((name, index),)))
                continue
            perm = node.attributes.get("perm")
            if params.axis is not None:
                shape = node.inputs[0].shape if node.inputs[0] is not None else None
                order = list(perm.as_ints()) if perm else list(range(len(shape or ())))[::-1]
                params = replace(params, axis=order.index(params.axis))
            users = tuple((u.node.name or "", u.idx) for u in node.outputs[0].uses())
            behind.append(
                replace(q, tensor=node.outputs[0].name or "", params=params, users=users)
            )
    fold_constants(model)
    drop_unused_initializers(graph)
    yield from behind
