"""Give a layer a bias: in its own place, in the Add behind it, or in an Add that is put there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.ops import bias_of
from calibrant.graph.values import Names, add_constant

__all__ = ["add_behind", "set_bias"]


def set_bias(
    graph: ir.Graph, names: Names, node: ir.Node, bias: ir.Value, values: dict[str, ir.Value]
) -> None:
    """Let a layer add a bias, in place.

    A MatMul that no Add follows gets one. The tensor behind it keeps its name, so that quantizers and
    outputs of that name stand behind the sum; the product has a new one.

    Args:
        graph: The graph.
        names: Its names.
        node: A Conv, ConvTranspose, Gemm or MatMul.
        bias: The bias (out,).
        values: Tensors by name; brought up to date.
    """
    place = bias_of(node)
    if place is not None:
        place[0].replace_input_with(place[1], bias)
    elif node.op_type == "MatMul":
        _insert_add(graph, names, node, bias, values)
    else:
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, bias)


def add_behind(
    graph: ir.Graph,
    names: Names,
    node: ir.Node,
    bias: npt.NDArray[np.float32],
    values: dict[str, ir.Value],
) -> None:
    """Add a bias (out,) in float behind a Conv, ConvTranspose or Gemm, in place; the layer itself has none then."""
    rank = len(node.inputs[1].shape or ()) if node.inputs[1] is not None else 2
    shaped = bias.reshape(-1, *[1] * (rank - 2))
    if len(node.inputs) > 2:
        node.replace_input_with(2, None)
    constant = add_constant(graph, names.fresh(f"{node.name}__bias"), shaped)
    _insert_add(graph, names, node, constant, values)


def _insert_add(
    graph: ir.Graph, names: Names, node: ir.Node, bias: ir.Value, values: dict[str, ir.Value]
) -> None:
    product = node.outputs[0]
    uses = tuple(product.uses())
    add = ir.Node("", "Add", [product, bias], name=names.fresh(f"{node.name}__add_bias"))
    total = add.outputs[0]
    total.shape, total.type = product.shape, product.type
    graph.insert_after(node, add)
    for use in uses:
        use.node.replace_input_with(use.idx, total)
    for i, output in enumerate(graph.outputs):
        if output is product:
            graph.outputs[i] = total
    name = product.name or ""
    product.name = names.fresh(f"{name}__product")
    total.name = name
    values[name] = total
