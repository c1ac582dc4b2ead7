"""Weights that a file stores as integers, to be small, and that are float weights when it runs.

    w = (integers - zero point) * scale         DequantizeLinear of constants; scales of a tensor, of each index along an
                                                axis, or of each block of values along it

Such a model computes in float: nothing that it reads from outside is quantized. The weights become float constants, as if
they had been stored so, and are quantized as others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.notes import add_note
from calibrant.graph.ops import is_constant
from calibrant.graph.passes.constants import lift_constants, put_constants
from calibrant.graph.values import Names, own_copy

__all__ = ["is_stored_weight", "with_float_weights"]


def is_stored_weight(node: ir.Node) -> bool:
    """Whether a node makes floats of constant integers."""
    if node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
        return False
    inputs = [v for v in node.inputs if v is not None]
    return all(is_constant(v) or _from_constant(v) for v in inputs)


def _from_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant"


def with_float_weights(model: ir.Model) -> ir.Model:
    """Return a model whose weights are floats: itself where they are, else a copy.

    Args:
        model: A model in which every node and value has a name of its own.
    """
    if not any(map(is_stored_weight, model.graph.all_nodes())):
        return model
    model = own_copy(model)
    lift_constants(model)
    names, count = Names(model.graph), 0
    for graph in list(model.graphs()):
        for node in [n for n in graph if is_stored_weight(n)]:
            put_constants(graph, names, node, [ir.tensor(_dequantized(node))])
            count += 1
    add_note(
        model,
        f"{count} constants are stored as integers (DequantizeLinear) and were made float weights, to be quantized as others. "
        "Give the float model, if there is one: its weights have not been rounded before.",
    )
    return model


def _dequantized(node: ir.Node) -> npt.NDArray[np.floating]:
    """Return the float weight, of the shape of the integers and the type of the scales."""
    integers, scale, *zero = (
        v.const_value.numpy() for v in node.inputs if v is not None and v.const_value is not None
    )
    numbers = integers.astype(np.float64)
    if zero:
        numbers -= _spread(zero[0].astype(np.float64), numbers.shape, node)
    return (numbers * _spread(scale.astype(np.float64), numbers.shape, node)).astype(scale.dtype)


def _spread(
    x: npt.NDArray[np.float64], shape: tuple[int, ...], node: ir.Node
) -> npt.NDArray[np.float64]:
    """Bring scales or zero points into a form that broadcasts to the integers."""
    axis, block = (
        node.attributes[n].as_int() if n in node.attributes else default
        for n, default in (("axis", 1), ("block_size", 0))
    )
    if x.size == 1:
        return x.reshape(())
    if block:
        return np.repeat(x, block, axis=axis).take(range(shape[axis]), axis=axis)
    return x.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
