"""Keep a runtime from making one integer kernel of what has scales by channel.

ONNX Runtime's optimizer replaces DequantizeLinear → operator → QuantizeLinear by an integer kernel of its
own, without looking whether scales are one number; the kernel then refuses a vector, or (Softmax) takes its
first entry for all. Where an operator that has such a kernel stands between two pairs of which one has
scales by channel, a Max of one input, which changes nothing, is put in front of the second.

A Clip in front of a quantizer of 4 bits is kept apart too: the optimizer of ONNX Runtime 1.31 wants to take it into the
quantizer, does not know the type, and refuses the model.

Convolutions and matrix products need none: their kernels on x86-64 want unsigned activations, and scales by
channel are written with signed ones.
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.ops import is_constant
from calibrant.graph.values import Names

__all__ = ["keep_apart"]

_WITHOUT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SEEN_THROUGH = frozenset({"Relu", "Clip"})


def keep_apart(graph: ir.Graph, names: Names) -> None:
    """Put a Max in front of quantizers that must not be fused with the operator before them, in place."""
    for quantize in [n for n in graph if n.op_type == "QuantizeLinear"]:
        source = quantize.inputs[0]
        node = source.producer() if source is not None else None
        if (
            source is not None
            and node is not None
            and node.op_type == "Clip"
            and _is_narrow(quantize)
        ):
            _set_apart(names, quantize, source)
            continue
        if node is not None and node.op_type in _SEEN_THROUGH and node.inputs[0] is not None:
            node = node.inputs[0].producer() or node
        if source is None or node is None or node.op_type in _WITHOUT:
            continue
        read = [p for v in node.inputs if v is not None and (p := _dequantizer(v)) is not None]
        if not read or not any(_by_channel(n) for n in (quantize, *read)):
            continue
        _set_apart(names, quantize, source)


def _set_apart(names: Names, quantize: ir.Node, source: ir.Value) -> None:
    """Put a Max of one input between a value and its quantizer."""
    apart = ir.Node("", "Max", [source], name=names.fresh(f"{quantize.name}__apart"))
    apart.outputs[0].name = names.fresh(f"{source.name}__apart")
    apart.outputs[0].shape, apart.outputs[0].type = source.shape, source.type
    quantize.prepend(apart)
    quantize.replace_input_with(0, apart.outputs[0])


def _is_narrow(quantize: ir.Node) -> bool:
    """Whether a quantizer gives 4 bits."""
    zero_point = quantize.inputs[2] if len(quantize.inputs) > 2 else None
    return zero_point is not None and zero_point.dtype in (ir.DataType.INT4, ir.DataType.UINT4)


def _dequantizer(value: ir.Value) -> ir.Node | None:
    """Return the node that dequantizes an activation."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or is_constant(node.inputs[0]):
        return None
    return node


def _by_channel(node: ir.Node) -> bool:
    scale = node.inputs[1]
    return scale is not None and scale.shape is not None and len(scale.shape) > 0
