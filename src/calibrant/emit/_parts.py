"""Operands in two parts, s1 * q1 + s2 * q2, and the operators that read them part by part.

An operator that is linear in an operand reads one part in each of two copies, so both stay integer operators:

    op(x, a + b) + bias  =  (op(x, a) + bias) + op(x, b)

The bias stays with the first copy, an Add brings both together under the name of the operator's output.
With two operands in parts a MatMul becomes four. The grid of a GridSample, and a Resize that fills with a
number of its own, are not linear: there the sum stands in front of the operator.

Source: docs/how-to/layers-and-precision.md, "Error compensation".
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.values import Names

__all__ = ["difference", "linear_inputs", "split", "total"]

_LINEAR = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    "Resize": (0,),
    "GridSample": (0,),
}

#: Operators whose third input is a bias.
_WITH_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def total(names: Names, one: ir.Value, other: ir.Value, name: str) -> ir.Node:
    """Return the Add of two parts."""
    return _binary(names, "Add", one, other, name)


def difference(names: Names, one: ir.Value, other: ir.Value, name: str) -> ir.Node:
    """Return the Sub that leaves what a first part did not take."""
    return _binary(names, "Sub", one, other, name)


def _binary(names: Names, op_type: str, one: ir.Value, other: ir.Value, name: str) -> ir.Node:
    node = ir.Node("", op_type, [one, other], name=names.fresh(name))
    node.outputs[0].name = names.fresh(f"{name}_output")
    node.outputs[0].shape, node.outputs[0].type = one.shape, one.type
    return node


def linear_inputs(node: ir.Node) -> tuple[int, ...]:
    """Return the inputs in which an operator is linear, of those that may come in parts."""
    if node.op_type == "Resize" and _fills(node):
        return ()
    return _LINEAR.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ()


def _fills(node: ir.Node) -> bool:
    mode = node.attributes.get("coordinate_transformation_mode")
    value = node.attributes.get("extrapolation_value")
    crops = mode is not None and mode.as_string() == "tf_crop_and_resize"
    return crops and value is not None and value.as_float() != 0


def split(graph: ir.Graph, names: Names, sums: list[ir.Node]) -> None:
    """Let every operator that is linear in a sum of two parts read them one by one, in place.

    Args:
        graph: The graph; sort it afterwards.
        names: Names that are free.
        sums: Adds of two parts; those that nothing reads any more are removed.
    """
    parts = {add.outputs[0]: (add.inputs[0], add.inputs[1]) for add in sums}
    waiting = list(graph)
    while waiting:
        node = waiting.pop()
        index = next((i for i in linear_inputs(node) if node.inputs[i] in parts), None)
        if index is not None:
            first, second = parts[node.inputs[index]]  # type: ignore[index]
            node.replace_input_with(index, first)
            waiting += [node, _second(graph, names, node, index, second)]
    for add in sums:
        if not add.outputs[0].uses() and not add.outputs[0].is_graph_output():
            graph.remove(add, safe=True)


def _second(
    graph: ir.Graph, names: Names, node: ir.Node, index: int, part: ir.Value | None
) -> ir.Node:
    """Put a copy without bias beside a node, and an Add behind the two; return the copy."""
    inputs = list(node.inputs[:2] if node.op_type in _WITH_BIAS else node.inputs)
    inputs[index] = part
    attributes = list(node.attributes.values())
    name = names.fresh(f"{node.name}__residual")
    copy = ir.Node(node.domain, node.op_type, inputs, attributes, name=name)
    out, other = node.outputs[0], copy.outputs[0]
    other.name, other.shape, other.type = names.fresh(f"{name}_output"), out.shape, out.type
    add = total(names, out, other, f"{node.name}__both")
    both = add.outputs[0]
    out.replace_all_uses_with(both, replace_graph_outputs=True)
    add.replace_input_with(0, out)
    out.name, both.name = names.fresh(f"{out.name}__first"), out.name
    graph.insert_after(node, [copy, add])
    return copy
