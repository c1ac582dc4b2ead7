"""Operators that compute with integers, written as float operators between quantizers: one form to compare all models in.

    q -> QLinearConv -> r        becomes        q -> DequantizeLinear -> Conv -> QuantizeLinear -> r

which is what the operator means. Nodes between that move integers (MaxPool, Reshape, Transpose, …) stay on the same grid, and get
quantizers around them likewise. What is in no table here, or has numbers that are computed, stays as it is.

Sources: QLinearConv and QLinearMatMul of the ONNX standard; QGemm, QLinearAdd, QLinearAveragePool, QLinearConcat,
QLinearGlobalAveragePool, QLinearLeakyRelu, QLinearMul, QLinearSigmoid, QLinearSoftmax and QLinearReduceMean of ONNX Runtime's
contrib operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from calibrant.graph.values import Names, add_constant

__all__ = ["with_float_operators", "with_one_quantizer"]

_ONNX, _CONTRIB = ("", "ai.onnx"), "com.microsoft"

#: Contrib operator of one tensor -> what it computes; inputs are x, its scale and zero point, and those of the answer.
_OF_ONE = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearReduceMean": "ReduceMean",
    "QLinearSigmoid": "Sigmoid",
    "QLinearSoftmax": "Softmax",
}

#: Contrib operator of two tensors -> what it computes.
_OF_TWO = {"QLinearAdd": "Add", "QLinearMul": "Mul"}

#: Operators whose answer lies on the grid of what they read; of their inputs the first one is data.
_MOVING = frozenset(
    {
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)

#: Attributes that say how a contrib operator stores its tensors, and not what it computes.
_OF_STORAGE = ("channels_last", "opset")

#: Where the biases of products of integers stand among the inputs.
_CONV_BIAS, _GEMM_BIAS = 8, 6

#: From this version of the operators on quantizers have scales by channel.
_BY_CHANNEL = 13


@dataclass(frozen=True, slots=True)
class _Grid:
    """Scale and zero point of a tensor of integers."""

    scale: ir.Value
    zero: ir.Value | None


@dataclass(slots=True)
class _Rewriting:
    """One graph, and what is known of its integers."""

    graph: ir.Graph
    names: Names
    grids: dict[ir.Value, _Grid] = field(default_factory=dict)
    _floats: dict[tuple[ir.Value, ir.Value], ir.Value] = field(default_factory=dict)

    def rewrite(self, node: ir.Node) -> None:
        """Put a float operator in the place of a node, where it is known what that computes."""
        if node.op_type == "QuantizeLinear" and node.domain in (*_ONNX, _CONTRIB):
            scale, zero = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
            if scale is not None and _constant(scale) is not None:
                self.grids[node.outputs[0]] = _Grid(scale, zero)
        elif node.op_type in _MOVING and node.domain in _ONNX:
            self._moving(node)
        elif node.op_type == "QLinearConv":
            self._product(node, "Conv", bias=_CONV_BIAS)
        elif node.op_type == "QLinearMatMul":
            self._product(node, "MatMul")
        elif node.domain != _CONTRIB:
            return
        elif node.op_type == "QGemm":
            self._gemm(node)
        elif node.op_type in _OF_ONE and not _is_set(node, "channels_last"):
            x, *numbers = node.inputs
            self._replace(
                node, _OF_ONE[node.op_type], [self._float(node, x, *numbers[:2])], *numbers[2:4]
            )
        elif node.op_type in _OF_TWO:
            a, b = (self._float(node, *node.inputs[i : i + 3]) for i in (0, 3))
            self._replace(node, _OF_TWO[node.op_type], [a, b], *node.inputs[6:8])
        elif node.op_type == "QLinearConcat":
            reads = [node.inputs[i : i + 3] for i in range(2, len(node.inputs), 3)]
            self._replace(node, "Concat", [self._float(node, *r) for r in reads], *node.inputs[:2])

    # ----------------------------------------------------------------------------------- operators

    def _moving(self, node: ir.Node) -> None:
        first = node.inputs[0]
        if first is None or (len(node.outputs) > 1 and node.op_type == "MaxPool"):
            return
        grid = self.grids.get(first) or _grid_of_readers(node.outputs[0])
        if grid is None:
            return
        node.replace_input_with(0, self._float(node, first, grid.scale, grid.zero))
        for output in node.outputs:
            self._quantize(node, output, grid.scale, grid.zero)

    def _product(self, node: ir.Node, op_type: str, bias: int | None = None) -> None:
        axis = 0 if op_type == "Conv" else -1
        reads = [
            self._float(node, *node.inputs[:3]),
            self._float(node, *node.inputs[3:6], axis=axis),
        ]
        held = node.inputs[bias] if bias is not None and len(node.inputs) > bias else None
        if held is not None:
            reads.append(self._bias(node, held, (node.inputs[1], node.inputs[4])))
        self._replace(node, op_type, reads, *node.inputs[6:8])

    def _gemm(self, node: ir.Node) -> None:
        across = _is_set(node, "transB")
        reads = [
            self._float(node, *node.inputs[:3]),
            self._float(node, *node.inputs[3:6], axis=0 if across else -1),
        ]
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
        held = node.inputs[_GEMM_BIAS] if len(node.inputs) > _GEMM_BIAS else None
        if held is not None:
            reads.append(self._bias(node, held, (node.inputs[1], node.inputs[4]), alpha))
        numbers = [*node.inputs[7:9], None, None][:2]
        self._replace(node, "Gemm", reads, *numbers)

    # -------------------------------------------------------------------------------------- pieces

    def _float(
        self,
        node: ir.Node,
        x: ir.Value | None,
        scale: ir.Value | None,
        zero: ir.Value | None = None,
        *,
        axis: int | None = None,
    ) -> ir.Value | None:
        """Return what a tensor of integers stands for."""
        if x is None or scale is None:
            return None
        if (x, scale) not in self._floats:
            numbers = _constant(scale)
            attributes: dict[str, object] = {}
            if numbers is not None and numbers.size > 1 and axis is not None:
                attributes["axis"] = axis
                zero = self._spread(zero, numbers.size)
            inputs = [x, scale] if zero is None else [x, scale, zero]
            made = self._node(node, "DequantizeLinear", inputs, attributes, f"{x.name}__float")
            self._floats[x, scale] = made
        return self._floats[x, scale]

    def _spread(self, zero: ir.Value | None, count: int) -> ir.Value | None:
        """Return a zero point for each channel."""
        there = _constant(zero) if zero is not None else None
        if zero is None or there is None or there.size == count:
            return zero
        name = self.names.fresh(f"{zero.name}__by_channel")
        return add_constant(self.graph, name, np.full(count, there.reshape(-1)[0]))

    def _bias(
        self,
        node: ir.Node,
        held: ir.Value,
        of: Sequence[ir.Value | None],
        times: float = 1.0,
    ) -> ir.Value | None:
        """Return a bias of integers as floats: its scale is that of the products."""
        scales = [_constant(v) for v in of if v is not None]
        if any(s is None for s in scales):
            return held
        product = np.prod(
            [np.asarray(s).reshape(-1) for s in scales if s is not None and s.size == 1]
        )
        channels = next(
            (s.reshape(-1) for s in scales if s is not None and s.size > 1), np.ones(())
        )
        scale = np.asarray(product * channels * times, dtype=np.float32)
        value = add_constant(self.graph, self.names.fresh(f"{held.name}__scale"), scale)
        return self._float(node, held, value, axis=0)

    def _replace(
        self,
        node: ir.Node,
        op_type: str,
        reads: Sequence[ir.Value | None],
        scale: ir.Value | None,
        zero: ir.Value | None = None,
    ) -> None:
        """Put a float operator in the place of a node, and a quantizer behind it where the node gives integers."""
        kept = {k: a for k, a in node.attributes.items() if k not in _OF_STORAGE}
        old = node.outputs[0]
        value = self._node(
            node, op_type, reads, kept, f"{old.name}__float", name=node.name or op_type
        )
        if scale is None:
            self._hand_on(old, value)
        else:
            self._quantize(node, old, scale, zero, value)
        self.graph.remove(node, safe=True)

    def _quantize(
        self,
        node: ir.Node,
        old: ir.Value,
        scale: ir.Value,
        zero: ir.Value | None,
        value: ir.Value | None = None,
    ) -> None:
        """Put a quantizer behind a node, or behind a value that takes its place; it takes over the name of the integers."""
        maker = value.producer() if value is not None else node
        assert maker is not None
        if value is None:
            value = old
        name = old.name or ""
        inputs = [value, scale] if zero is None else [value, scale, zero]
        quantizer = ir.node("QuantizeLinear", inputs, name=self.names.fresh(f"{name}__quantize"))
        new = quantizer.outputs[0]
        new.type, new.shape = old.type, old.shape
        self.graph.insert_after(maker, quantizer)
        users = [u for u in old.uses() if u.node is not quantizer]
        for use in users:
            use.node.replace_input_with(use.idx, new)
        self._as_output(old, new)
        if value is old:
            old.name = self.names.fresh(f"{name}__float")
            old.type = ir.TensorType(ir.DataType.FLOAT)
        else:
            old.name = self.names.fresh(f"{name}__before")
        new.name = name
        self.grids[new] = _Grid(scale, zero)

    def _hand_on(self, old: ir.Value, value: ir.Value) -> None:
        for use in list(old.uses()):
            use.node.replace_input_with(use.idx, value)
        self._as_output(old, value)
        old.name, value.name = self.names.fresh(f"{old.name}__before"), old.name

    def _as_output(self, old: ir.Value, new: ir.Value) -> None:
        for i, output in enumerate(self.graph.outputs):
            if output is old:
                self.graph.outputs[i] = new

    def _node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, object],
        output: str,
        *,
        name: str = "",
    ) -> ir.Value:
        title = name or self.names.fresh(f"{output}_{op_type}")
        made = ir.node(op_type, list(inputs), attributes=dict(attributes), name=title)  # type: ignore[arg-type]  # attributes as they are
        made.outputs[0].name = self.names.fresh(output)
        made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(before, made)
        return made.outputs[0]


def with_float_operators(model: ir.Model) -> None:
    """Write operators on integers as float operators between quantizers, in place; see the module."""
    version = max((model.opset_imports.get(d, 0) for d in _ONNX), default=0)
    graph = model.graph
    rewriting = _Rewriting(graph, Names(graph))
    for node in list(graph):
        if version >= _BY_CHANNEL or not any(map(_is_by_channel, node.inputs)):
            rewriting.rewrite(node)


def with_one_quantizer(model: ir.Model) -> None:
    """Let all readers of a tensor share one quantizer where each has its own, all of them equal; in place.

    Some tools give each reader a pair of its own. The values are the same, and so is the layer that they are told of.
    """
    graph = model.graph
    made: dict[tuple[object, ...], ir.Value] = {}
    for node in list(graph):
        if node.op_type != "QuantizeLinear" or node.inputs[0] is None:
            continue
        key = (node.inputs[0], node.domain, *map(_said, node.inputs[1:]), _attributes(node))
        first = made.setdefault(key, node.outputs[0])
        if first is node.outputs[0] or node.outputs[0].is_graph_output():
            continue
        for use in list(node.outputs[0].uses()):
            use.node.replace_input_with(use.idx, first)
        graph.remove(node, safe=True)


def _grid_of_readers(value: ir.Value) -> _Grid | None:
    """Return the grid that the readers of integers take them to be on, such as those of a table that is stored as integers."""
    for use in value.uses():
        node, index = use.node, use.idx
        if node.op_type not in ("DequantizeLinear", "QGemm") and not node.op_type.startswith(
            "QLinear"
        ):
            continue
        first = 2 if node.op_type == "QLinearConcat" else 0
        is_bias = node.op_type == "QGemm" and index == _GEMM_BIAS
        if (index - first) % 3 or is_bias or len(node.inputs) <= index + 1:
            continue
        scale = node.inputs[index + 1]
        numbers = _constant(scale) if scale is not None else None
        if scale is not None and numbers is not None and numbers.size == 1:
            return _Grid(scale, node.inputs[index + 2] if len(node.inputs) > index + 2 else None)
    return None


def _attributes(node: ir.Node) -> str:
    return repr(sorted((k, str(a.value)) for k, a in node.attributes.items()))


def _said(value: ir.Value | None) -> object:
    """Return what stands for a constant; the value itself for what is computed."""
    numbers = _constant(value) if value is not None else None
    if numbers is None:
        return value
    return str(numbers.dtype), numbers.shape, numbers.tobytes()


def _constant(value: ir.Value) -> np.ndarray | None:
    return None if value.const_value is None else np.asarray(value.const_value.numpy())


def _is_by_channel(value: ir.Value | None) -> bool:
    """Whether a constant may be the scales of channels."""
    numbers = _constant(value) if value is not None else None
    return (
        numbers is not None
        and numbers.ndim == 1
        and numbers.size > 1
        and numbers.dtype.kind == "f"
    )


def _is_set(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].as_int())
