"""A written model without its activation quantizers: the float model with rounded weights."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from calibrant.graph.load import load, prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm

__all__ = ["with_rounded_weights"]


def with_rounded_weights(run: Path, source: Path | None = None) -> onnx.ModelProto:
    """Take QuantizeLinear and the DequantizeLinear behind it out of `deploy.onnx`.

    Biases are those of the float model, or of `fake_quant.onnx` where they were corrected.
    """
    model, plain = onnx.load(run / "deploy.onnx"), onnx.load(run / "fake_quant.onnx")
    if source is not None:
        prepared = prepare(load(source))
        fuse_batchnorm(prepared)
        plain = ir.to_proto(prepared)
    made = {o: n for n in model.graph.node for o in n.output}
    instead = {}
    for node in model.graph.node:
        before = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is not None and before.op_type == "QuantizeLinear":
            instead[node.output[0]] = before.input[0]
    floats = {i.name: i for i in plain.graph.initializer}
    biases = {n.name: n.input[2] for n in plain.graph.node if len(n.input) > 2}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = instead.get(name, name)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2:
            bias = onnx.TensorProto()
            bias.CopyFrom(floats[biases[node.name]])
            bias.name = node.input[2] = f"{node.name}__float_bias"
            model.graph.initializer.append(bias)
    kept = [
        n for n in model.graph.node if n.op_type != "QuantizeLinear" and n.output[0] not in instead
    ]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    read = {i for n in kept for i in n.input}
    used = [i for i in model.graph.initializer if i.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(used)
    return model
