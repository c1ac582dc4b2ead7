"""Read and check an ONNX model, and bring it into the form the rest works on.

`load` answers with an `onnx_ir.Model` or with one sentence that says what is wrong with the file.
`prepare` makes a copy in which functions are inlined, constants are initializers, every node has a
unique name and the opset is one that QuantizeLinear needs. The numbers the model computes stay the same.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from calibrant.errors import ModelError
from calibrant.graph.ops import is_constant, rule_of

__all__ = [
    "ModelLike",
    "load",
    "main_opset",
    "own_copy",
    "prepare",
    "raise_opset",
    "unsupported_subgraphs",
]

logger = logging.getLogger(__name__)

ModelLike = str | Path | onnx.ModelProto | ir.Model

#: QuantizeLinear has an axis since opset 13; 16 bits and 4 bits came with opset 21.
MIN_OPSET = 13
WIDE_OPSET = 21

#: The file format: functions came with IR version 8, 4-bit types with 10.
MIN_IR_VERSION = 8
WIDE_IR_VERSION = 10

_QUANTIZED_OPS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "QLinearAdd",
        "QGemm",
        "ConvInteger",
        "MatMulInteger",
        "MatMulNBits",
        "AscendQuant",
        "AscendDequant",
        "FakeQuantize",
    }
)


def load(model: ModelLike) -> ir.Model:
    """Read a model and check that it is one.

    Weights in external files are mapped, not read, so models over 2 GB load.

    Args:
        model: Path of an ONNX file, or a model in memory (returned as an `ir.Model`; an `ir.Model`
            is returned as it is).

    Raises:
        ModelError: The file does not exist, is not ONNX, is truncated, breaks a rule of ONNX, or is
            already quantized.
    """
    if isinstance(model, ir.Model):
        name, loaded = "the model", model
    elif isinstance(model, onnx.ModelProto):
        name = "the model"
        _check(model, name)
        loaded = ir.from_proto(model)
    else:
        path = Path(model)
        name = f"'{path}'"
        loaded = _read(path)
    if len(loaded.graph) == 0:
        raise ModelError(f"{name.capitalize() if name == 'the model' else name} has no operators.")
    _refuse_quantized(loaded, name)
    return loaded


def _read(path: Path) -> ir.Model:
    if not path.exists():
        raise ModelError(f"The model file '{path}' does not exist.")
    if path.is_dir():
        raise ModelError(f"'{path}' is a folder; an ONNX file is expected.")
    if path.stat().st_size == 0:
        raise ModelError(f"The model file '{path}' is empty.")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as e:
        raise ModelError(
            f"'{path}' is not an ONNX file, or it is truncated: its protobuf cannot be read."
        ) from e
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"'{path}' is not an ONNX model: it has no graph or no opset.")
    _check(proto, f"'{path}'", path)
    try:
        model = ir.serde.deserialize_model(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
    except Exception as e:
        raise ModelError(f"'{path}' cannot be read as an ONNX model: {_first_line(e)}") from e
    _check_external_data(model)
    return model


def _check_external_data(model: ir.Model) -> None:
    """Refuse files of weights that are too short; the numbers are read much later."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
            if Path(tensor.path).stat().st_size < end:
                raise ModelError(
                    f"The file of weights '{tensor.path}' is truncated: it ends before tensor "
                    f"'{value.name}' does."
                )


def _check(proto: onnx.ModelProto, name: str, path: Path | None = None) -> None:
    try:
        if path is not None and _has_external_data(proto):
            onnx.checker.check_model(str(path))  # by path, so that external files are found
        else:
            onnx.checker.check_model(proto)
    except Exception as e:
        if "Field 'shape' of 'type' is required" in str(e):
            return  # exporters write outputs of unknown rank so, and runtimes take them
        raise ModelError(f"{name} is not a valid ONNX model: {_first_line(e)}") from e


def _has_external_data(proto: onnx.ModelProto) -> bool:
    return any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _refuse_quantized(model: ir.Model, name: str) -> None:
    for node in model.graph.all_nodes():
        if node.op_type in _QUANTIZED_OPS:
            label = node.name or (node.outputs[0].name if node.outputs else "")
            raise ModelError(
                f"{name[0].upper() + name[1:]} is already quantized: node '{label}' is a {node.op_type}. "
                "Give the float model."
            )


def main_opset(model: ir.Model) -> int:
    """Return the version of the default operator set."""
    version = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx"))
    if version is None:
        raise ModelError("The model imports no version of the ONNX operator set.")
    return version


def own_copy(model: ir.Model) -> ir.Model:
    """Copy a model so that naming a constant in the copy does not rename the caller's tensor.

    A clone shares its tensors with the original, and a tensor carries the name of its value. Here each is
    wrapped; the numbers are not copied.
    """
    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _wrapped(value.const_value)
    for node in copy.graph.all_nodes():
        constant = node.attributes.get("value") if node.op_type == "Constant" else None
        if constant is not None and constant.type == ir.AttributeType.TENSOR:
            node.attributes["value"] = ir.AttrTensor("value", _wrapped(constant.as_tensor()))
    return copy


def _wrapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy(), name=tensor.name)
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=tensor.name)


def prepare(model: ir.Model) -> ir.Model:
    """Copy a model and bring it into the form that the passes expect.

    1. Functions are inlined, `Constant` nodes become initializers, identities and inference-time
       dropouts go, nodes nobody reads go.
    2. Weights computed from constants alone (a transposed MatMul weight) become initializers.
    3. Every node and value has a unique name.
    4. The opset is at least 13, and shapes are inferred where ONNX can.

    Raises:
        ModelError: The opset cannot be raised, or a constant that a layer computes with holds NaN or Inf.
    """
    model = own_copy(model)
    for step in (
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
        common.IdentityEliminationPass(),
    ):
        step(model)
    if main_opset(model) < MIN_OPSET:
        model = raise_opset(model, MIN_OPSET)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _remove_dropout(model.graph)
    _fold_weight_layout(model)
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    _name_everything(model)
    _refuse_nan(model)
    common.ShapeInferencePass()(model)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    return model


def _refuse_nan(model: ir.Model) -> None:
    """Find constants that are not numbers; -inf is one where it is a mask, and none where it is a weight."""
    for node in model.graph.all_nodes():
        is_layer = rule_of(node).kind == "compute"
        for value in node.inputs:
            tensor = value.const_value if value is not None and is_constant(value) else None
            if tensor is None or not tensor.dtype.is_floating_point():
                continue
            data = tensor.numpy()
            if not np.isfinite(data).all() if is_layer else np.isnan(data).any():
                raise ModelError(
                    f"Constant '{tensor.name}', which node '{node.name}' ({node.op_type}) reads, holds NaN"
                    f"{' or Inf' if is_layer else ''}."
                )


def raise_opset(model: ir.Model, version: int) -> ir.Model:
    """Convert a model to a higher version of the default operator set, as a copy.

    Raises:
        ModelError: The model holds an operator that the converter does not know.
    """
    if main_opset(model) >= version:
        return model
    from onnxscript import version_converter

    before = main_opset(model)
    model = own_copy(model)
    logger.info("raising the opset from %d to %d", before, version)
    quiet = logging.getLogger("onnxscript.version_converter")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        version_converter.convert_version(model, target_version=version, fallback=True)
    except Exception as e:
        raise ModelError(
            f"The model's opset {before} cannot be raised to {version}, which quantization needs: "
            f"{_first_line(e)}"
        ) from e
    finally:
        quiet.setLevel(level)
    if main_opset(model) < version:
        raise ModelError(
            f"The model's opset {before} cannot be raised to {version}, which quantization needs. "
            "Export the model with a newer opset."
        )
    if before < 11:
        _keep_resize(model)
    newest = WIDE_IR_VERSION if version >= WIDE_OPSET else MIN_IR_VERSION
    model.ir_version = max(model.ir_version, newest)
    return model


def _keep_resize(model: ir.Model) -> None:
    """Say of each Resize how it found its points before opset 11, where this could not be chosen.

    The converter leaves the default of opset 11, half a pixel away. `nearest` rounds as ONNX Runtime does:
    down for a larger image, up for a smaller one.
    """
    for node in model.graph.all_nodes():
        if node.op_type != "Resize":
            continue
        scales = node.inputs[2].const_value if node.inputs[2] is not None else None
        shrinks = scales is not None and bool((scales.numpy() < 1).any())
        for attribute in (
            ir.AttrString("coordinate_transformation_mode", "asymmetric"),
            ir.AttrString("nearest_mode", "ceil" if shrinks else "floor"),
        ):
            node.attributes[attribute.name] = attribute


def _remove_dropout(graph: ir.Graph) -> None:
    for node in list(graph):
        if node.op_type != "Dropout" or node.domain not in ("", "ai.onnx"):
            continue
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            continue
        source = node.inputs[0]
        if source is None or node.outputs[0].is_graph_output():
            continue
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)


def _fold_weight_layout(model: ir.Model) -> None:
    """Apply Transpose, Reshape and Cast nodes whose inputs are all constant."""
    graph = model.graph
    for node in list(graph):
        if node.op_type not in {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast"}:
            continue
        values = [v for v in node.inputs if v is not None]
        if not values or any(v.const_value is None or v.is_graph_input() for v in values):
            continue
        if node.outputs[0].is_graph_output():
            continue
        source = values[0]
        assert source.const_value is not None
        data = source.const_value.numpy()
        if node.op_type == "Transpose":
            perm = node.attributes.get("perm")
            data = np.transpose(data, perm.as_ints() if perm else None)
        elif node.op_type == "Reshape":
            assert values[1].const_value is not None
            shape = [int(n) for n in values[1].const_value.numpy()]
            if 0 in shape:
                continue  # 0 copies a dimension, unless allowzero says otherwise: leave it to the runtime
            data = data.reshape(shape)
        elif node.op_type == "Cast":
            to = ir.DataType(node.attributes["to"].as_int())
            if not (source.const_value.dtype.is_floating_point() and to == ir.DataType.FLOAT):
                continue
            data = data.astype(np.float32)
        else:
            if len(values) < 2:
                continue
            assert values[1].const_value is not None
            axes = tuple(int(a) for a in values[1].const_value.numpy())
            data = (
                np.squeeze(data, axes) if node.op_type == "Squeeze" else np.expand_dims(data, axes)
            )
        new = ir.Value(
            name=f"{node.outputs[0].name}",
            const_value=ir.tensor(np.ascontiguousarray(data), name=node.outputs[0].name),
            shape=ir.Shape(data.shape),
            type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
        )
        node.outputs[0].replace_all_uses_with(new)
        node.outputs[0].name = f"{new.name}__folded"
        graph.remove(node, safe=True)
        graph.register_initializer(new)


def _name_everything(model: ir.Model) -> None:
    taken: set[str] = set()
    for node in model.graph.all_nodes():
        base = node.name or f"{node.op_type}_{node.outputs[0].name if node.outputs else 'node'}"
        name, n = base, 1
        while name in taken:
            name, n = f"{base}_{n}", n + 1
        if name != node.name:
            node.name = name
        taken.add(name)
    common.NameFixPass()(model)


def unsupported_subgraphs(model: ir.Model) -> list[str]:
    """Return the names of nodes with bodies (If, Loop, Scan): what is in them stays in float."""
    return [
        node.name or node.op_type
        for node in model.graph
        if any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for a in node.attributes.values()
        )
    ]
