"""Keep a runtime from making one integer kernel of what has scales by channel.

ONNX Runtime's optimizer replaces DequantizeLinear → operator → QuantizeLinear by an integer kernel of its
own, without looking whether scales are one number; the kernel then refuses a vector, or (Softmax) takes its
first entry for all. Where an operator that has such a kernel stands between two pairs of which one has
scales by channel, a Max of one input, which changes nothing, is put in front of the second.

Values of 4 bits have no integer kernels there, and what the optimizer (1.31, 1.32) does next to their quantizers is kept
from it in the same way:

| What | It would |
|---|---|
| Clip → 4 bits | take the Clip into the quantizer, not know the type, and refuse the model |
| Relu → 4 bits | leave the Relu out, whatever the zero point: another answer |
| Conv, MaxPool, ReduceMax or ReduceMin → 4 bits | make an integer kernel that does not exist, and refuse the model |
| 4 bits → MaxPool | the same |

Operators that only move values (a Transpose) may stand between: quantizers are moved over them.

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

#: What must not stand right in front of a quantizer of 4 bits, and right behind one.
_BEFORE_NARROW = frozenset({"Clip", "Relu", "Conv", "MaxPool", "ReduceMax", "ReduceMin"})
_BEHIND_NARROW = frozenset({"MaxPool"})
#: What quantizers are moved over.
_MOVES = frozenset({"Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def keep_apart(graph: ir.Graph, names: Names) -> None:
    """Put a Max between quantizers and operators that must not be fused with them, in place."""
    for quantize in [n for n in graph if n.op_type == "QuantizeLinear"]:
        source = quantize.inputs[0]
        node = source.producer() if source is not None else None
        if source is None or node is None:
            continue
        if _is_narrow(quantize):
            first = _moved(source).producer()
            if first is not None and first.op_type in _BEFORE_NARROW:
                _set_apart(names, quantize, source)
                continue
        if node.op_type in _SEEN_THROUGH and node.inputs[0] is not None:
            node = node.inputs[0].producer() or node
        if node.op_type in _WITHOUT:
            continue
        read = [p for v in node.inputs if v is not None and (p := _dequantizer(v)) is not None]
        if not read or not any(_by_channel(n) for n in (quantize, *read)):
            continue
        _set_apart(names, quantize, source)
    for node in [n for n in graph if n.op_type in _BEHIND_NARROW]:
        source = node.inputs[0]
        pair = _dequantizer(_moved(source)) if source is not None else None
        if source is not None and pair is not None and _is_narrow(pair):
            _set_apart(names, node, source)


def _moved(value: ir.Value) -> ir.Value:
    """Return the value of which this one is a rearrangement."""
    node = value.producer()
    while node is not None and node.op_type in _MOVES and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _set_apart(names: Names, reader: ir.Node, source: ir.Value) -> None:
    """Put a Max of one input between a value and a node that reads it first."""
    apart = ir.Node("", "Max", [source], name=names.fresh(f"{reader.name}__apart"))
    apart.outputs[0].name = names.fresh(f"{source.name}__apart")
    apart.outputs[0].shape, apart.outputs[0].type = source.shape, source.type
    reader.prepend(apart)
    reader.replace_input_with(0, apart.outputs[0])


def _is_narrow(node: ir.Node) -> bool:
    """Whether a quantizer or a dequantizer has values of 4 bits."""
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
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
