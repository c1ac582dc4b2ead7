"""Which inputs of a node carry activations that can be quantized."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calibrant.graph.ops import is_constant, rule_of

__all__ = ["data_inputs", "fills_with_inf", "quantizable"]


def quantizable(value: ir.Value | None) -> bool:
    """Say whether a value is an activation in float32."""
    if value is None or is_constant(value):
        return False
    return value.dtype is None or value.dtype == ir.DataType.FLOAT


def data_inputs(node: ir.Node) -> tuple[int, ...]:
    """Return the indices of the inputs that carry data; none where one of them cannot be quantized."""
    rule = rule_of(node)
    indices = rule.data if rule.data is not None else tuple(range(len(node.inputs)))
    if any(not quantizable(node.inputs[i]) for i in indices):
        return ()
    return indices


def fills_with_inf(node: ir.Node) -> bool:
    """Say whether a node pads with a value that no range can hold."""
    filling = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
    if filling is None:
        return False
    return filling.const_value is None or not np.isfinite(filling.const_value.numpy()).all()
