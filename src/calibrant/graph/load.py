"""Read and check an ONNX model, and bring it into the form the rest works on.

`load` answers with an `onnx_ir.Model` or with one sentence that says what is wrong with the file.
`prepare` makes a copy in which functions are inlined, what depends on constants alone is computed, and the opset
is one that QuantizeLinear needs. The numbers the model computes stay the same, and so do its outputs' names.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from calibrant.errors import ModelError
from calibrant.graph.arrays import deserialized
from calibrant.graph.free_dims import free_unknown_dims, has_unknown_dims
from calibrant.graph.inferred import infer_shapes
from calibrant.graph.interface import check_interface
from calibrant.graph.ops import is_constant, rule_of
from calibrant.graph.opset import (
    MIN_IR_VERSION,
    MIN_OPSET,
    main_opset,
    needed_ir_version,
    raise_opset,
)
from calibrant.graph.passes.constants import note_what_is_left
from calibrant.graph.passes.names import has_unique_names, name_everything
from calibrant.graph.passes.plain_gemm import plain_gemm
from calibrant.graph.passes.simplify import simplify
from calibrant.graph.passes.single import in_float32
from calibrant.graph.passes.stored_weights import is_stored_weight, with_float_weights
from calibrant.graph.proto import HoldsModel, TorchModule, held_model
from calibrant.graph.quiet import quiet
from calibrant.graph.sparse import with_dense_weights
from calibrant.graph.values import own_copy

__all__ = [
    "ModelLike",
    "load",
    "prepare",
    "unsupported_subgraphs",
]

ModelLike = str | Path | onnx.ModelProto | ir.Model | HoldsModel | TorchModule

#: Quantizers of a model whose operators read floats.
_QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})

_QUANTIZED_OPS = _QDQ_OPS | frozenset(
    {
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "QLinearAdd",
        "QGemm",
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulFpQ4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QMoE",
        "AscendQuant",
        "AscendDequant",
        "FakeQuantize",
    }
)


def load(model: ModelLike, *, quantizers: bool = False, integers: bool = False) -> ir.Model:
    """Read a model and check that it is one.

    Weights in external files are mapped, not read, so models over 2 GB load. A dimension written as -1 (or 0)
    becomes a free one (`free_dims`). Every node and value of the result has a name of its own: where several nodes
    share one, or have none, they are named here, once, for all that comes later. Weights that are stored as integers
    alone become float weights (`passes.stored_weights`). A model that computes in float16 or float64 computes in float32 then; its inputs and outputs keep their types (`passes.single`).

    Args:
        model: Path of an ONNX file, or a model in memory, which is not changed: where names are missing or
            dimensions are to be freed, the result is a copy. The result of a quantization stands for its
            deployed model.
        quantizers: The model may hold QuantizeLinear and DequantizeLinear (a trained model's own scales).
        integers: It may hold operators on integers as well (a quantized model of any kind, to run it).

    Raises:
        ModelError: The file does not exist, is not ONNX, is truncated, breaks a rule of ONNX, is already quantized,
            or computes in bfloat16.
    """
    model = held_model(model)
    if isinstance(model, ir.Model):
        name, loaded = "the model", model
    elif isinstance(model, onnx.ModelProto):
        name = "the model"
        _check(model, name)
        dense = with_dense_weights(model)
        loaded = deserialized(dense, keep=dense is model)
    elif isinstance(model, TorchModule):
        raise ModelError(
            f"The model is a module of torch ({type(model).__name__}), which is not taken here; export it to ONNX first."
        )
    elif not isinstance(model, (str, os.PathLike)) or not str(model):
        raise ModelError(
            f"The model is a {type(model).__name__}; it is a path, an onnx.ModelProto or an onnx_ir.Model."
            if not isinstance(model, str)
            else "The path of the model is empty."
        )
    else:
        path = Path(model)
        name = f"'{path}'"
        loaded = _read(path)
    if len(loaded.graph) == 0:
        raise ModelError(f"{name.capitalize() if name == 'the model' else name} has no operators.")
    if not integers:
        refused = _QUANTIZED_OPS - _QDQ_OPS if quantizers else _QUANTIZED_OPS
        _refuse_quantized(loaded, name, refused)
    has_names = has_unique_names(loaded)
    is_ours = isinstance(model, (str, os.PathLike))
    version = needed_ir_version(loaded)
    as_it_is = version == loaded.ir_version and has_names and not has_unknown_dims(loaded)
    if not is_ours and not as_it_is:
        loaded = own_copy(loaded)
    loaded.ir_version = version
    free_unknown_dims(loaded)
    if not has_names:
        name_everything(loaded)
    if integers:  # to run it: it computes in the types that it has
        return loaded
    with quiet("onnx_ir", "onnxscript"):
        return in_float32(loaded if quantizers else with_float_weights(loaded))


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
    proto = with_dense_weights(proto)
    try:
        model = deserialized(proto, keep=False)
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


def _refuse_maps(proto: onnx.ModelProto, name: str) -> None:
    """Refuse tables from labels to scores, which converters of classifiers put behind the scores (ZipMap)."""
    for kind, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            of = value.type.sequence_type.elem_type if _is(value.type, "sequence") else value.type
            if _is(of, "map"):
                raise ModelError(
                    f"{name[0].upper() + name[1:]}: {kind} '{value.name}' is a map from labels to scores; inputs and outputs are "
                    "tensors. Convert the model without ZipMap (skl2onnx: options={'zipmap': False}), or cut that node off."
                )


def _is(kind: onnx.TypeProto, of: str) -> bool:
    return bool(kind.WhichOneof("value") == f"{of}_type")


def _check(proto: onnx.ModelProto, name: str, path: Path | None = None) -> None:
    _refuse_maps(proto, name)
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


def _refuse_quantized(model: ir.Model, name: str, refused: frozenset[str]) -> None:
    for node in model.graph.all_nodes():
        if node.op_type in refused and not is_stored_weight(node):
            label = node.name or (node.outputs[0].name if node.outputs else "")
            keep = (
                ", or keep the scales it has: 'activation: from-model' in a recipe"
                if node.op_type in _QDQ_OPS
                else ""
            )
            raise ModelError(
                f"{name[0].upper() + name[1:]} is already quantized: node '{label}' is a {node.op_type}. "
                f"Give the float model{keep}."
            )


def prepare(model: ir.Model) -> ir.Model:
    """Copy a model and bring it into the form that the passes expect.

    1. Functions are inlined; `Constant` nodes, and whatever is computed from constants alone, become initializers.
    2. Ifs whose condition is known give way to their branch; identities and inference-time dropouts go, and so
       do nodes nobody reads. Factors of a Gemm go into its constants.
    3. Every node and value has a unique name.
    4. The opset is at least 13, and shapes are inferred where ONNX can.

    Raises:
        ModelError: The opset cannot be raised, a constant that a layer computes with holds NaN or Inf, or
            the model contradicts itself.
    """
    try:
        with quiet("onnx_ir", "onnxscript"):
            prepared = _prepared(model)
    except ModelError:
        raise
    except Exception as e:
        raise ModelError(
            f"The model cannot be brought into the form that quantization needs: {_first_line(e)}"
        ) from e
    _refuse_nan(prepared)
    check_interface(prepared, model, "prepared model")
    return prepared


def _prepared(model: ir.Model) -> ir.Model:
    model = own_copy(model)
    common.InlinePass()(model)
    _remove_defaults(model.graph)
    name_everything(model)
    simplify(model)
    if main_opset(model) < MIN_OPSET:
        model = raise_opset(model, MIN_OPSET)
        name_everything(model)
        simplify(model)
    plain_gemm(model.graph)
    name_everything(model)
    model.graph.sort()
    infer_shapes(model)
    note_what_is_left(model)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    return model


def _remove_defaults(graph: ir.Graph) -> None:
    """Take initializers out of the inputs: files of IR version 3 list every weight among them."""
    for value in [v for v in graph.inputs if v.is_initializer()]:
        graph.inputs.remove(value)


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
