"""Compute in float32 what a model computes in float16 or float64.

Quantizers stand on float32 tensors, and calibration observes these. A float16 model becomes a float32 model: its
constants are converted, its Casts and the types of its values follow, bodies included. The inputs and outputs of the
model keep their type: a Cast stands behind such an input, and in front of such an output.

Nothing is done where float16 is only stored: weights that a Cast makes float32 before they are used. float64 counts
where a layer reads it; a few numbers beside a float32 network stay as they are. bfloat16 is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from calibrant.errors import ModelError
from calibrant.graph.bodies import dependencies
from calibrant.graph.inferred import infer_shapes
from calibrant.graph.notes import add_note
from calibrant.graph.ops import rule_of
from calibrant.graph.passes.names import name_everything
from calibrant.graph.values import Names, own_copy

__all__ = ["in_float32"]

FLOAT = ir.DataType.FLOAT

#: Attributes that name the type of an output.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")

#: Operators that only carry numbers to where they are used.
_CARRIERS = frozenset({"Cast", "Constant", "Identity"})

_NAMES = {ir.DataType.FLOAT16: "float16", ir.DataType.DOUBLE: "float64"}


def in_float32(model: ir.Model) -> ir.Model:
    """Return a model that computes in float32; itself where it does already, else a copy.

    Args:
        model: A loaded model, in which every node has a name.

    Raises:
        ModelError: The model computes in bfloat16.
    """
    reader = next(_reading(model, ir.DataType.BFLOAT16), None)
    if reader is not None:
        raise ModelError(
            f"The model computes in bfloat16 (node '{reader.name}', {reader.op_type}), which is not supported. Export it "
            "in float32 or float16."
        )
    for kind in (ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        readers = _reading(model, kind)
        if kind == ir.DataType.DOUBLE:
            readers = (n for n in readers if rule_of(n).kind == "compute")
        if next(readers, None) is None:
            continue
        model = own_copy(model)
        if model.functions:
            common.InlinePass()(model)
            name_everything(model)
        _convert(model, kind)
        add_note(
            model,
            f"The model computes in {_NAMES[kind]}: it was converted to float32 in memory. Its inputs and outputs keep "
            "their types.",
        )
    return model


def _reading(model: ir.Model, kind: ir.DataType) -> Iterator[ir.Node]:
    """Yield the nodes that compute with values of a type, those that depend on constants alone left out."""
    constant: set[ir.Value] = set()
    for graph in model.graphs():
        constant.update(v for v in graph.initializers.values() if not v.is_graph_input())
    for node in model.graph.all_nodes():
        if all(v in constant for v in dependencies(node)):
            constant.update(node.outputs)
        elif node.op_type not in _CARRIERS and any(
            v is not None and _type_of(v) == kind for v in node.inputs
        ):
            yield node
    for function in model.functions.values():
        for node in function.all_nodes():
            if node.op_type not in _CARRIERS and any(
                v is not None and _type_of(v) == kind for v in node.inputs
            ):
                yield node


def _type_of(value: ir.Value) -> ir.DataType | None:
    """Return the type of a value, as far as the model says it there or in the node before."""
    if value.const_value is not None:
        return value.const_value.dtype
    if value.dtype is not None:
        return value.dtype
    maker = value.producer()
    if maker is None:
        return None
    if maker.op_type == "Identity" and maker.inputs[0] is not None:
        return _type_of(maker.inputs[0])
    if maker.op_type == "Constant":
        held = maker.attributes.get("value")
        return held.as_tensor().dtype if held is not None else None
    to = maker.attributes.get("to") if maker.op_type == "Cast" else None
    return ir.DataType(to.as_int()) if to is not None else None


# ------------------------------------------------------------------------------------------ conversion


def _convert(model: ir.Model, kind: ir.DataType) -> None:
    """Make every value of a type float32, in place, but for the inputs and outputs of the model."""
    inputs = [v for v in model.graph.inputs if v.dtype == kind and not v.is_initializer()]
    outputs = {i: v.type for i, v in enumerate(model.graph.outputs) if v.dtype == kind}
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            _retype(value, kind)
        for node in graph:
            _convert_attributes(node, kind)
            for value in node.outputs:
                _retype(value, kind)
    names = Names(model.graph)
    for value in inputs:
        value.type = ir.TensorType(kind)
        _cast_behind(model.graph, names, value)
    for index, wanted in outputs.items():
        _cast_in_front(model.graph, names, index, wanted)
    infer_shapes(model)
    _pass_casts(model)


def _retype(value: ir.Value, kind: ir.DataType) -> None:
    if isinstance(value.type, ir.TensorType) and value.dtype == kind:
        value.type = ir.TensorType(FLOAT)
    elif isinstance(value.type, ir.SequenceType | ir.OptionalType) and value.dtype == kind:
        value.type = None  # inferred anew
    tensor = value.const_value
    if tensor is not None and tensor.dtype == kind:
        value.const_value = _as_single(tensor, value.name)


def _as_single(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
    with np.errstate(over="ignore"):
        return ir.tensor(tensor.numpy().astype(np.float32), name=name)


def _convert_attributes(node: ir.Node, kind: ir.DataType) -> None:
    for attribute in list(node.attributes.values()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == kind:
            tensor = _as_single(attribute.as_tensor(), attribute.as_tensor().name)
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, tensor)
        elif (
            attribute.type == ir.AttributeType.INT
            and attribute.name in _TYPE_ATTRIBUTES
            and attribute.as_int() == int(kind)
        ):
            node.attributes[attribute.name] = ir.AttrInt64(attribute.name, int(FLOAT))


def _cast_behind(graph: ir.Graph, names: Names, value: ir.Value) -> None:
    """Let every reader of an input read it as float32."""
    uses = list(value.uses())
    if not uses:
        return
    cast = _cast(names, value, FLOAT, f"{value.name}__to_float32")
    cast.outputs[0].name = names.fresh(f"{value.name}__float32")
    for use in uses:
        use.node.replace_input_with(use.idx, cast.outputs[0])
    graph.insert_before(graph[0], cast)


def _cast_in_front(
    graph: ir.Graph, names: Names, index: int, wanted: ir.TypeProtocol | None
) -> None:
    """Give an output its type back, under its own name."""
    value = graph.outputs[index]
    if value.is_graph_input() or not isinstance(wanted, ir.TensorType):
        return
    cast = _cast(names, value, wanted.dtype, f"{value.name}__from_float32")
    name, value.name = value.name, names.fresh(f"{value.name}__float32")
    cast.outputs[0].name, cast.outputs[0].type = name, wanted
    maker = value.producer()
    if maker is not None:
        graph.insert_after(maker, cast)
    else:
        graph.append(cast)
    graph.outputs[index] = cast.outputs[0]


def _cast(names: Names, value: ir.Value, kind: ir.DataType, name: str) -> ir.Node:
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(kind))], name=names.fresh(name))
    node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(kind)
    return node


def _pass_casts(model: ir.Model) -> None:
    """Make an Identity of each Cast from float32 to float32, in place."""
    for node in model.graph.all_nodes():
        if node.op_type == "Cast" and node.attributes["to"].as_int() == int(FLOAT):
            source = node.inputs[0]
            if source is not None and source.dtype == FLOAT:
                node.op_type = "Identity"
                node.attributes.clear()
