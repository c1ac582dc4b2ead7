"""Write a MatMul of two matrices as Gemm, with the bias that an Add behind it holds (`plan.products`)."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.ops import bias_of

__all__ = ["matmul_to_gemm"]


def matmul_to_gemm(graph: ir.Graph, node: ir.Node, values: dict[str, ir.Value]) -> None:
    """Make a Gemm of a MatMul, in place.

    A constant (out,) that an Add alone adds to the product becomes its bias. The product then has the name of the sum,
    so that quantizers and outputs of that name stand behind it.

    Args:
        graph: The graph.
        node: A MatMul of two matrices.
        values: Tensors by name; brought up to date.
    """
    place = bias_of(node)
    node.op_type = "Gemm"
    if place is None:
        return
    add, index = place
    node.resize_inputs(3)
    node.replace_input_with(2, add.inputs[index])
    product, total = node.outputs[0], add.outputs[0]
    total.replace_all_uses_with(product, replace_graph_outputs=True)
    name, shape = total.name or "", total.shape
    graph.remove(add, safe=True)
    values.pop(product.name or "", None)
    product.name, product.shape = name, shape if shape is not None else product.shape
    values[name] = product
