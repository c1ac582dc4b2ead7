"""How much arithmetic a node is: the multiplications of layers and of matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

__all__ = ["is_product", "multiplications", "work_of_a_layer"]

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def is_product(node: ir.Node) -> bool:
    """Whether a node multiplies two tensors as a layer does."""
    return node.op_type in _PRODUCTS and None not in node.inputs[:2]


def multiplications(node: ir.Node, x: Sequence[int], out: Sequence[int]) -> int:
    """Return the multiplications of one run of a product: for each output, one for each number that goes into it.

    Args:
        node: The node (`is_product`).
        x: Shape of its first input.
        out: Shape of its output.
    """
    if node.op_type in ("Conv", "ConvTranspose"):
        shape = node.inputs[1].shape if node.inputs[1] is not None else None
        weight = [d for d in shape[1:] if isinstance(d, int)] if shape is not None else []
        per = out if node.op_type == "Conv" else x
        return math.prod(per) * math.prod(weight) if weight else 0
    if not x:
        return 0
    across = node.attributes.get("transA")
    return math.prod(out) * x[0 if across is not None and across.as_int() else -1]


def work_of_a_layer(model: ir.Model) -> float | None:
    """Return the mean multiplications of a product for one sample; None where the model does not say its shapes."""
    found = []
    for node in model.graph:
        if not is_product(node):
            continue
        shapes = [_of_one(v) for v in (node.inputs[0], node.outputs[0])]
        if shapes[0] is None or shapes[1] is None:
            return None
        found.append(multiplications(node, shapes[0], shapes[1]))
    return sum(found) / len(found) if found else None


def _of_one(value: ir.Value | None) -> list[int] | None:
    """Return the shape of a value for one sample, where the number of samples is open; None where more is."""
    if value is None or value.shape is None or not len(value.shape):
        return None
    first, *rest = value.shape
    if not all(isinstance(d, int) for d in rest):
        return None
    return [first if isinstance(first, int) else 1, *(int(d) for d in rest if isinstance(d, int))]
