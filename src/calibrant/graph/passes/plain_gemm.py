"""Bring every Gemm into the form  y = A B + c  that integer kernels take.

    y = alpha A B + beta C        (1) alpha != 1, A or B constant:   alpha goes into the constant
                                  (2) beta != 1, C constant:         beta goes into C; nothing is left of C where it is 0
                                  (3) C constant, of shape (), (1,), (1, N) or (1, 1):   C becomes (N,)

The integers of a bias are in steps of the scales of A and B; a factor on either side of the sum would be one more that
a kernel has to know. A C with a row for each row of A is no bias and stays.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.ops import is_constant
from calibrant.graph.values import Names, add_constant, drop_unused_initializers

__all__ = ["plain_gemm"]


def plain_gemm(graph: ir.Graph) -> None:
    """Fold the factors of each Gemm into its constants, in place."""
    names = Names(graph)
    for node in graph:
        if node.op_type == "Gemm" and node.domain in ("", "ai.onnx"):
            _fold_alpha(graph, names, node)
            _fold_beta(graph, names, node)
            _flatten(graph, names, node)
    drop_unused_initializers(graph)


def _fold_alpha(graph: ir.Graph, names: Names, node: ir.Node) -> None:
    alpha = _factor(node, "alpha")
    index = next((i for i in (1, 0) if is_constant(node.inputs[i])), None)
    if alpha != 1 and index is not None:
        _multiply(graph, names, node, index, alpha)
        del node.attributes["alpha"]


def _fold_beta(graph: ir.Graph, names: Names, node: ir.Node) -> None:
    beta = _factor(node, "beta")
    if beta == 1 or len(node.inputs) < 3 or not is_constant(node.inputs[2]):
        return
    if beta == 0:
        node.replace_input_with(2, None)
    else:
        _multiply(graph, names, node, 2, beta)
    del node.attributes["beta"]


def _flatten(graph: ir.Graph, names: Names, node: ir.Node) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    columns = _columns(node)
    if bias is None or not is_constant(bias) or columns is None:
        return
    data = _array(bias)
    if data.ndim == 1 and data.size == columns:
        return
    if data.ndim == 2 and data.shape[0] != 1:
        return
    flat = np.broadcast_to(data.reshape(-1), (columns,)).copy()
    node.replace_input_with(2, add_constant(graph, names.fresh(f"{bias.name}__flat"), flat))


def _columns(node: ir.Node) -> int | None:
    """Return the number of columns of the product; None where it is not known."""
    right = node.inputs[1]
    shape = right.shape if right is not None else None
    if right is not None and right.const_value is not None:
        shape = ir.Shape(right.const_value.shape.numpy())
    if shape is None or len(shape) != 2:
        return None
    transposed = node.attributes.get("transB")
    size = shape[0 if transposed is not None and transposed.as_int() else 1]
    return size if isinstance(size, int) else None


def _multiply(graph: ir.Graph, names: Names, node: ir.Node, index: int, factor: float) -> None:
    value = node.inputs[index]
    assert value is not None
    data = _array(value)
    scaled = (data.astype(np.float64) * factor).astype(data.dtype)
    new = add_constant(graph, names.fresh(f"{value.name}__scaled"), scaled)
    node.replace_input_with(index, new)


def _array(value: ir.Value) -> npt.NDArray[np.floating]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _factor(node: ir.Node, name: str) -> float:
    attribute = node.attributes.get(name)
    return attribute.as_float() if attribute is not None else 1.0
