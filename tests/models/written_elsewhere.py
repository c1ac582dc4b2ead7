"""Quantized models in the forms that other tools write, small, with one tensor spoiled where that is asked for.

`nncf`: batch normalizations stay; each tensor that a layer reads goes through `QuantizeLinear_<tensor>_1`, after activation functions;
weights are integers with one scale a channel and a zero point of their own, biases are float.

`aimet`: batch normalizations are folded; what every operator gives is quantized, outputs of the model too, whose quantizer gives the
name; `QcQuantizeOp_<tensor>_q` and `_dq`; biases are float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper, numpy_helper

from calibrant.graph.load import load, prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm

__all__ = ["Tool", "written"]

Tool = Literal["nncf", "aimet"]

_LAYERS = ("Conv", "Gemm", "MatMul")


def written(
    model: onnx.ModelProto,
    feeds: Mapping[str, Any],
    tool: Tool,
    *,
    narrow: str = "",
    times: float = 50.0,
) -> onnx.ModelProto:
    """Return the model as a tool would write it, ranges from least to largest value.

    Args:
        model: A float model.
        feeds: What ranges are taken from.
        tool: Whose form.
        narrow: A tensor whose range is so many `times` too narrow.
        times: See `narrow`.
    """
    if tool == "aimet":
        folded = prepare(load(model))
        fuse_batchnorm(folded)
        model = ir.to_proto(folded)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held = {t.name: numpy_helper.to_array(t) for t in copy.graph.initializer}
    ranges = _ranges(copy, feeds, held)
    outputs = {o.name for o in copy.graph.output}
    nodes: list[onnx.NodeProto] = []
    known: dict[str, str] = {}

    def constant(name: str, x: Any) -> str:
        copy.graph.initializer.append(numpy_helper.from_array(np.asarray(x), name))
        return name

    def quantized(name: str, given: str = "", source: str = "") -> str:
        """Put a pair behind a tensor and return what it gives."""
        if name not in ranges:
            return name
        if name not in known:
            low, high = ranges[name]
            scale = max(high - low, 1e-6) / 255 / (times if name == narrow else 1)
            zero = np.uint8(np.clip(round(-low / scale), 0, 255))
            text = (
                f"scale_{name}_1",
                f"zero_point_{name}_1",
                f"q_output_{name}_1",
                f"dq_output_{name}_1",
            )
            titles = (f"QuantizeLinear_{name}_1", f"DequantizeLinear_{name}_1")
            if tool == "aimet":
                text = (
                    f"{name}_scale",
                    f"{name}_zero_point",
                    f"{name}_q",
                    given or f"{name}_updated",
                )
                titles = (f"QcQuantizeOp_{name}_q", f"QcQuantizeOp_{name}_dq")
            numbers = [constant(text[0], np.float32(scale)), constant(text[1], zero)]
            nodes.append(
                helper.make_node(
                    "QuantizeLinear", [source or name, *numbers], [text[2]], titles[0]
                )
            )
            nodes.append(
                helper.make_node("DequantizeLinear", [text[2], *numbers], [text[3]], titles[1])
            )
            known[name] = text[3]
        return known[name]

    def weight(name: str, axis: int) -> str:
        if name in known:
            return known[name]
        w = held[name]
        others = tuple(i for i in range(w.ndim) if i != axis)
        scale = np.maximum(np.abs(w).max(axis=others), 1e-6) / 127
        shape = [-1 if i == axis else 1 for i in range(w.ndim)]
        q = np.clip(np.rint(w / scale.reshape(shape)), -127, 127).astype(np.int8)
        text = (f"q_output_{name}_1", f"dq_output_{name}_1", f"DequantizeLinear_{name}_1")
        if tool == "aimet":
            text = (f"{name}_q", f"{name}_qdq", f"QcQuantizeOp_{name}_dq")
        numbers = [
            constant(text[0], q),
            constant(f"{name}_scale", scale.astype(np.float32)),
            constant(f"{name}_zero_point", np.zeros(len(scale), np.int8)),
        ]
        nodes.append(helper.make_node("DequantizeLinear", numbers, [text[1]], text[2], axis=axis))
        known[name] = text[1]
        return text[1]

    for node in copy.graph.node:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        layer = node.op_type in _LAYERS
        for i, name in enumerate(node.input):
            if name in held:
                if layer and i == 1 and held[name].ndim > 1:
                    turned = any(a.name == "transB" and a.i for a in node.attribute)
                    new.input[i] = weight(name, 0 if node.op_type == "Conv" or turned else 1)
            elif tool == "aimet" or layer:
                new.input[i] = quantized(name)
        nodes.append(new)
        for i, name in enumerate(node.output):
            if tool == "aimet" and name in outputs and name in ranges:
                new.output[i] = f"{name}_raw"
                quantized(name, given=name, source=new.output[i])
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    used = {n for node in nodes for n in node.input}
    kept = [t for t in copy.graph.initializer if t.name in used]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    del copy.graph.value_info[:]
    return copy


def _ranges(
    model: onnx.ModelProto, feeds: Mapping[str, Any], held: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value of each float tensor, 0 among them."""
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    names = [o for n in model.graph.node for o in n.output if o and o not in held]
    del open_model.graph.output[:]
    open_model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    session = ort.InferenceSession(open_model.SerializeToString())
    values = dict(zip(names, session.run(names, dict(feeds)), strict=True)) | dict(feeds)
    return {
        n: (min(0.0, float(x.min())), max(0.0, float(x.max())))
        for n, x in values.items()
        if x.dtype == np.float32
    }
