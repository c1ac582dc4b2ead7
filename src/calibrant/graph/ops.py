"""What each operator means for quantization: one row an operator.

The table says which inputs carry data, where the weight and the bias are, and what the operator does to
ranges. It says nothing about devices: that is a target's matter (`graph.targets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calibrant.errors import ConfigValueError, did_you_mean

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "ACTIVATION_FUNCTIONS",
    "OP_RULES",
    "RECURRENT",
    "OpRule",
    "before_cast",
    "bias_of",
    "contracted_axis",
    "fixed_output_range",
    "is_constant",
    "is_depthwise",
    "matches_type",
    "operators_of",
    "rule_of",
    "type_names",
    "weight_axis",
    "weight_index",
]

Kind = Literal["compute", "pool", "elementwise", "pass_through", "activation", "other"]


@dataclass(frozen=True, slots=True)
class OpRule:
    """How one operator is quantized.

    Args:
        kind: `compute` multiplies and accumulates; `pool` averages; `elementwise` combines tensors;
            `pass_through` moves values without changing them; `activation` maps each value.
        data: Indices of the inputs that carry activations; None means all.
        weight: Index of the weight, when that input is constant.
        bias: Index of the bias.
        output_range: The range the output always has, whatever the data.
    """

    kind: Kind
    data: tuple[int, ...] | None = (0,)
    weight: int | None = None
    bias: int | None = None
    output_range: tuple[float, float] | None = None


_PASS = OpRule("pass_through")
_MAP = OpRule("activation")

OP_RULES: dict[str, OpRule] = {
    # multiply and accumulate
    "Conv": OpRule("compute", (0, 1), weight=1, bias=2),
    "ConvTranspose": OpRule("compute", (0, 1), weight=1, bias=2),
    "Gemm": OpRule("compute", (0, 1), weight=1, bias=2),
    "MatMul": OpRule("compute", (0, 1), weight=1),
    # averages
    "AveragePool": OpRule("pool"),
    "GlobalAveragePool": OpRule("pool"),
    "ReduceMean": OpRule("pool"),
    # several tensors in, one out
    "Add": OpRule("elementwise", None),
    "Sub": OpRule("elementwise", None),
    "Mul": OpRule("elementwise", None),
    "Div": OpRule("elementwise", None),
    "Concat": OpRule("elementwise", None),
    "Sum": OpRule("elementwise", None),
    "Max": OpRule("elementwise", None),
    "Min": OpRule("elementwise", None),
    # values are moved, not changed
    "MaxPool": _PASS,
    "GlobalMaxPool": _PASS,
    "Reshape": _PASS,
    "Flatten": _PASS,
    "Transpose": _PASS,
    "Squeeze": _PASS,
    "Unsqueeze": _PASS,
    "Slice": _PASS,
    "Split": _PASS,
    "Expand": _PASS,
    "Tile": _PASS,
    "DepthToSpace": _PASS,
    "SpaceToDepth": _PASS,
    "Identity": _PASS,
    "Gather": _PASS,
    # values are moved, and others come between them
    "Pad": OpRule("other"),
    "Resize": OpRule("other"),
    "GridSample": OpRule("other", (0, 1)),
    # one value in, one out
    "Relu": _MAP,
    "LeakyRelu": _MAP,
    "PRelu": _MAP,
    "Clip": _MAP,
    "HardSwish": _MAP,
    "Swish": _MAP,
    "Elu": _MAP,
    "Selu": _MAP,
    "Celu": _MAP,
    "Gelu": _MAP,
    "Mish": _MAP,
    "Softplus": _MAP,
    "Softsign": _MAP,
    "ThresholdedRelu": _MAP,
    "Tanh": OpRule("activation", output_range=(-1.0, 1.0)),
    "Sigmoid": OpRule("activation", output_range=(0.0, 1.0)),
    "HardSigmoid": OpRule("activation", output_range=(0.0, 1.0)),
    "Softmax": OpRule("other", output_range=(0.0, 1.0)),
}

#: Operators that a target may fuse behind a convolution or matrix product.
ACTIVATION_FUNCTIONS = frozenset(op for op, rule in OP_RULES.items() if rule.kind == "activation")

_OTHER = OpRule("other", ())

#: Layers that vendors' tools quantize and calibrant leaves in float: a configuration may name them.
RECURRENT = frozenset({"LSTM", "GRU"})

#: Spellings of other frameworks: name -> (ONNX operator, kernel rank or None, depthwise or None).
_SPELLINGS: dict[str, tuple[tuple[str, ...], int | None, bool | None]] = {
    "Conv1d": (("Conv",), 1, None),
    "Conv2d": (("Conv",), 2, None),
    "Conv3d": (("Conv",), 3, None),
    "ConvTranspose1d": (("ConvTranspose",), 1, None),
    "ConvTranspose2d": (("ConvTranspose",), 2, None),
    "Linear": (("Gemm", "MatMul"), None, None),
    "AvgPool2d": (("AveragePool",), None, None),
    "MaxPool2d": (("MaxPool",), None, None),
    "Conv2D": (("Conv",), 2, False),
    "Conv3D": (("Conv",), 3, None),
    "DepthwiseConv2dNative": (("Conv",), 2, True),
    "Conv2DBackpropInput": (("ConvTranspose",), 2, None),
    "BatchMatMulV2": (("MatMul",), None, None),
    "AvgPool": (("AveragePool",), None, None),
    "Convolution": (("Conv",), None, None),
    "Deconvolution": (("ConvTranspose",), None, None),
    "InnerProduct": (("Gemm", "MatMul"), None, None),
    "Pooling": (("AveragePool", "MaxPool"), None, None),
    "Eltwise": (("Add", "Mul", "Max"), None, None),
}


def rule_of(node: ir.Node) -> OpRule:
    """Return the row of a node's operator; operators without one carry no quantizable data."""
    if node.domain not in ("", "ai.onnx"):
        return _OTHER
    return OP_RULES.get(node.op_type, _OTHER)


def type_names() -> list[str]:
    """Return every operator type a recipe may name, in all spellings."""
    return sorted({*OP_RULES, *_SPELLINGS})


def operators_of(name: str) -> tuple[str, ...]:
    """Return the ONNX operators that a type, in any edition's spelling, may be."""
    return _SPELLINGS[name][0] if name in _SPELLINGS else (name,)


def _layer_types() -> list[str]:
    """Return the types of layers, in all spellings."""
    layers = {op for op, rule in OP_RULES.items() if rule.kind == "compute"} | {"AveragePool"}
    return sorted(layers | {n for n, (ops, *_) in _SPELLINGS.items() if layers & {*ops}})


def matches_type(node: ir.Node, name: str) -> bool:
    """Say whether a node is of a type, in any edition's spelling.

    Raises:
        ConfigValueError: Nobody spells a type so; only names that no ONNX operator has are refused.
    """
    if name == node.op_type:
        return True
    if name not in _SPELLINGS:
        from onnx import defs

        if name in OP_RULES or defs.has(name):
            return False
        raise ConfigValueError(
            f"Unknown operator type '{name}'. Layers are of type {', '.join(_layer_types())}, and other "
            f"operators of ONNX can be named as well.{did_you_mean(name, type_names())}"
        )
    types, rank, depthwise = _SPELLINGS[name]
    if node.op_type not in types:
        return False
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if rank is not None:
        if weight is None or weight.shape is None or len(weight.shape) != rank + 2:
            return False
    elif name in ("Linear", "InnerProduct") and weight_index(node) is None:
        return False
    return depthwise is None or is_depthwise(node) == depthwise


def is_depthwise(node: ir.Node) -> bool:
    """Say whether each input channel of a convolution has filters of its own."""
    group = node.attributes.get("group")
    weight = node.inputs[1]
    if group is None or weight is None or weight.shape is None:
        return False
    return group.as_int() > 1 and weight.shape[1] == 1


def before_cast(value: ir.Value) -> ir.Value:
    """Return the float32 value that an output of another floating point type is cast from; else the value itself."""
    maker = value.producer()
    source = maker.inputs[0] if maker is not None and maker.op_type == "Cast" else None
    if source is None or value.dtype is None or source.dtype is None:
        return value
    is_output = value.dtype.name in ("FLOAT16", "DOUBLE") and source.dtype.name == "FLOAT"
    return source if is_output and source.producer() is not None else value


def is_constant(value: ir.Value | None) -> bool:
    """Say whether a value is an initializer that no caller can replace."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def weight_index(node: ir.Node) -> int | None:
    """Return the index of a compute node's constant weight, or None where both inputs are data.

    A MatMul or Gemm may have its constant on the left.
    """
    rule = rule_of(node)
    if rule.kind != "compute" or rule.weight is None:
        return None
    if len(node.inputs) > rule.weight and is_constant(node.inputs[rule.weight]):
        return rule.weight
    if node.op_type in ("MatMul", "Gemm") and is_constant(node.inputs[0]):
        return 0
    return None


def bias_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Return the node and input index that hold a layer's constant bias, or None.

    Conv, ConvTranspose and Gemm hold it themselves. A MatMul has it in an Add that alone reads its output
    (docs/reference/ascend-configurations.md, "Fusion").
    """
    rule = rule_of(node)
    if rule.bias is not None:
        has = len(node.inputs) > rule.bias and is_constant(node.inputs[rule.bias])
        return (node, rule.bias) if has else None
    if node.op_type != "MatMul" or weight_index(node) != 1:
        return None
    out = node.outputs[0]
    uses = tuple(out.uses())
    if out.is_graph_output() or len(uses) != 1:
        return None
    add, index = uses[0].node, uses[0].idx
    beside = add.op_type == "Add" and add.graph is node.graph
    other = add.inputs[1 - index] if beside else None
    if other is None or not is_constant(other) or other.shape is None or len(other.shape) != 1:
        return None
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    return (add, 1 - index) if other.shape[0] == weight.shape[-1] else None


def weight_axis(node: ir.Node) -> int | None:
    """Return the axis of a node's weight that runs over its output channels.

    Conv 0; ConvTranspose 1 (with groups it holds the channels of one group, which then share a
    scale); Gemm the axis that `transB` makes the output; MatMul the last axis of a right operand, the
    first of a left operand. None where there is no such axis (a vector, no weight), and for a stack of
    matrices, for which ONNX Runtime's kernels take one scale.
    """
    index = weight_index(node)
    if index is None:
        return None
    weight = node.inputs[index]
    assert weight is not None
    assert weight.const_value is not None
    rank = len(weight.const_value.shape)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if rank != 2:
        return None
    if node.op_type == "Gemm":
        name = "transB" if index == 1 else "transA"
        transposed = node.attributes.get(name)
        is_transposed = transposed is not None and transposed.as_int() != 0
        return (0 if is_transposed else 1) if index == 1 else (1 if is_transposed else 0)
    return 1 if index == 1 else 0


def contracted_axis(node: ir.Node) -> int | None:
    """Return the axis of a node's weight that its products are added up over, beside positions.

    None where there is no constant weight, and for a convolution of one output a channel, which adds up positions alone.
    """
    index = weight_index(node)
    if index is None:
        return None
    weight = node.inputs[index]
    assert weight is not None
    assert weight.const_value is not None
    shape = weight.const_value.shape
    if node.op_type == "Conv":
        group = node.attributes.get("group")
        alone = shape[1] == 1 and shape[0] == (group.as_int() if group is not None else 1)
        return None if alone else 1
    if node.op_type == "ConvTranspose":
        return 0
    if len(shape) < 2:
        return 0
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB" if index == 1 else "transA")
        is_transposed = transposed is not None and transposed.as_int() != 0
        return int(is_transposed) if index == 1 else int(not is_transposed)
    return len(shape) - 2 if index == 1 else len(shape) - 1


def fixed_output_range(node: ir.Node) -> tuple[float, float] | None:
    """Return the range that a node's output has by its definition, such as [0, 1] of a Softmax."""
    return rule_of(node).output_range
