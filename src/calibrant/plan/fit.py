"""What a layer has to be for a weight of few levels, and for balancing.

Source: ascend.md 7 (layers that NUQ takes) and 8 (weights with input channels).
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.ops import is_constant, rule_of
from calibrant.graph.passes.balance import weight_magnitudes
from calibrant.recipe import Settings

__all__ = ["LEVELS_ALGORITHM", "why_no_balance", "why_no_levels"]

#: The weight algorithm that keeps a few levels of the grid.
LEVELS_ALGORITHM = "nuq"


def why_no_levels(node: ir.Node, settings: Settings) -> str:
    """Say why a weight cannot keep a few levels, as a clause; an empty string where it can."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return "the weights of Conv, Gemm and MatMul alone can keep a few levels"
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or not is_constant(weight):
        return "its second input is not a constant weight"
    rank = len(weight.shape) if weight.shape is not None else 0
    if node.op_type == "Conv":
        dilations = _ints(node, "dilations")
        groups = _number(node, "group", 1)
        if rank != 4:
            return f"its filter has {rank} dimensions, not 4"
        if any(d != 1 for d in dilations):
            return f"its filter is dilated by {' and '.join(map(str, dilations))}"
        if groups != 1:
            return f"it has {groups:g} groups"
    elif rank != 2:
        return f"its weight has {rank} dimensions, not 2"
    elif node.op_type == "Gemm":
        if _number(node, "transA", 0):
            return "its input is transposed"
        for name in ("alpha", "beta"):
            if _number(node, name, 1) != 1:
                return f"its {name} is {_number(node, name, 1):g}, not 1"
    if settings.weight_bits != 8:
        return f"levels are of the 8-bit grid, and its weight has {settings.weight_bits} bits"
    return ""


def why_no_balance(node: ir.Node) -> str:
    """Say why a layer cannot be balanced, as a clause; an empty string where it can."""
    if rule_of(node).kind == "compute" and weight_magnitudes(node) is not None:
        return ""
    return "it has no constant weight to move difficulty to, input channel by input channel"


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    integer = attribute.type == ir.AttributeType.INT
    return attribute.as_int() if integer else attribute.as_float()


def _ints(node: ir.Node, name: str) -> list[int]:
    attribute = node.attributes.get(name)
    return list(attribute.as_ints()) if attribute is not None else []
