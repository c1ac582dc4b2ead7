"""Which matrix products a target wants to have written as Gemm.

ONNX Runtime makes one Gemm of a MatMul of two matrices and the Add behind it before it looks for integer kernels,
and for a Gemm whose bias is float it has none: the layer dequantizes its weight at every run and takes 25 times as
long as in float. So where a target says `matmul_as_gemm`,

| MatMul behind quantizers of 8 bits | is written as |
|---|---|
| two matrices, a constant (out,) added | Gemm, which adds the bias in int32 |
| two matrices, something else added | Gemm without a bias, and the Add |
| a stack of matrices by a matrix, a constant (out,) added | MatMul, and an Add of the bias as int32 with its scale |

The last is a Gemm between two Reshapes in ONNX Runtime where shapes are known, and a MatMul kernel elsewhere; both
compute in integers.
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.ops import bias_of, is_constant
from calibrant.plan.decisions import ActivationDecision, Plan, WeightDecision

__all__ = ["adds_in_integers", "becomes_gemm"]

#: Operators that hold their bias themselves, and add it in integers.
_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")


def adds_in_integers(node: ir.Node, plan: Plan, weight: WeightDecision) -> bool:
    """Say whether a layer adds its bias to sums of integers.

    Args:
        node: The layer, in the float model.
        plan: Where quantizers stand.
        weight: Its weight.
    """
    if weight.input_index != 1:
        return False
    if node.op_type in _WITH_BIAS:
        return True
    if node.op_type != "MatMul" or not plan.target.matmul_as_gemm or bias_of(node) is None:
        return False
    return _reads_bytes(node, plan) and _rank(node.inputs[1]) == 2


def becomes_gemm(node: ir.Node, plan: Plan) -> bool:
    """Say whether a MatMul is written as Gemm: one of two matrices, to which something is added.

    Args:
        node: A node of the float model.
        plan: Where quantizers stand.
    """
    if node.op_type != "MatMul" or not plan.target.matmul_as_gemm or not _reads_bytes(node, plan):
        return False
    two = _rank(node.inputs[0]) == 2 and _rank(node.inputs[1]) == 2
    return two and any(use.node.op_type == "Add" for use in node.outputs[0].uses())


def _reads_bytes(node: ir.Node, plan: Plan) -> bool:
    """Say whether all that a product reads is 8-bit integers of one scale, and what it writes is float."""
    read = {(n, i): d for d in plan.activations for n, i in d.users}
    weights = {(w.layer, w.input_index): w for w in plan.weights}
    if any(d.tensor == node.outputs[0].name for d in plan.activations):
        return False
    for index, value in enumerate(node.inputs):
        edge = (node.name or "", index)
        spec = weights[edge].spec if edge in weights else None
        if is_constant(value):
            if spec is None or spec.bits > 8 or weights[edge].compensation:
                return False
        elif edge not in read or not _is_plain(read[edge]):
            return False
    return True


def _is_plain(d: ActivationDecision) -> bool:
    return d.spec.bits <= 8 and not d.compensation and (d.spec.axis is None or d.folded)


def _rank(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None:
        return None
    return len(value.shape)
