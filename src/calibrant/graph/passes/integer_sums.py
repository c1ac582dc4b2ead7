"""A quantized model whose layers add up integers, as a device with integer accumulators does: what each sum is, exactly.

    y = float32(sum_k (q_x - z_x) (q_w - z_w) + q_b) * float32(s_x s_w)

A float runtime adds products of floats, so the last digits of its sums depend on their order, and a value that lies on the
edge between two steps may round to either. Here a layer reads integers, its sum is exact whatever the order, and it is
scaled once. All else computes as before.

A convolution of float32 adds integers exactly while sum |x w| < 2**24. Where that may be exceeded, the weight is taken apart into
digits (and an input of 16 bits as well), each is convolved by itself, and float64 adds them up:

    w = sum_i 2**(b i) w_i,   -2**(b-1) <= w_i < 2**(b-1)

Products of matrices are computed in float64 (exact below 2**53).

Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR
2018, section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.values import Names, add_constant

__all__ = ["with_integer_sums"]

Array = npt.NDArray[Any]

#: Integers below this are exact in float32.
EXACT = 2**24
#: Bits of a digit of an input of 16 bits.
INPUT_DIGIT = 8
#: Operators that are computed digit by digit.
_CONVOLUTIONS = ("Conv", "ConvTranspose")
#: Operator -> axis of the output channels in its answer.
_CHANNELS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}


@dataclass(frozen=True, slots=True)
class _Read:
    """An operand in integers.

    Args:
        value: The integers as they are stored.
        zero: Zero point, int64 () or (channels,).
        scale: Scale, float32 () or (channels,).
        axis: Axis of the channels; None where both are one number.
    """

    value: ir.Value
    zero: Array
    scale: Array
    axis: int | None


@dataclass(frozen=True, slots=True)
class _Term:
    """A part of an input, and the digits of the weight that it is convolved with.

    Args:
        shift: Power of 2 of the part.
        digits: Digits, each with its power of 2.
    """

    shift: int
    digits: list[tuple[Array, int]]


def with_integer_sums(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Return a model whose quantized layers add up integers, and the names of these layers.

    An input may have a zero point for each channel, and a depthwise convolution, which adds up no channels, a scale for each of them.
    Layers that multiply what has no constant weight, that add up channels of different scales, that are not quantized, or that add
    up more products than digits can be made for, stay as they are.

    Args:
        model: A model with QuantizeLinear and DequantizeLinear; it is not changed.
    """
    changed = model.clone()
    names = Names(changed.graph)
    done = []
    for node in list(changed.graph):
        if node.op_type in _CHANNELS and node.domain in ("", "ai.onnx"):
            layer = _Layer.of(node)
            if layer is not None:
                layer.rewrite(changed.graph, names)
                done.append(node.name or "")
    return changed, tuple(done)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer whose operands are integers."""

    node: ir.Node
    x: _Read
    w: Array
    scale: Array
    bias: Array | None
    whole_bias: bool
    terms: tuple[_Term, ...]

    @classmethod
    def of(cls, node: ir.Node) -> _Layer | None:
        """Return it; None where it is none."""
        x, w = _read(node.inputs[0]), _read(node.inputs[1])
        if x is None or w is None or w.value.const_value is None or w.zero.ndim:
            return None
        if any(float(_attribute(node, a, 1.0)) != 1.0 for a in ("alpha", "beta")):
            return None
        rank = w.value.const_value.numpy().ndim
        if w.axis is not None and w.axis % rank != _weight_axis(node, rank):
            return None
        integers = w.value.const_value.numpy().astype(np.int64) - w.zero
        of_x = _by_output(node, x, integers)
        if of_x is None:
            return None
        scale = np.asarray(of_x * w.scale, dtype=np.float32)
        if node.op_type == "ConvTranspose" and scale.ndim:
            scale = np.tile(scale, _attribute(node, "group", 1))
        bias, whole = None, False
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            held = _bias(node.inputs[2], scale)
            if held is None:
                return None
            bias, whole = held
        terms = _terms(node, x, integers) if node.op_type in _CONVOLUTIONS else ()
        return None if terms is None else cls(node, x, integers, scale, bias, whole, terms)

    def rewrite(self, graph: ir.Graph, names: Names) -> None:
        """Put the sum of integers in the place of the layer, in place."""
        node, name = self.node, self.node.name or "layer"
        made: list[ir.Node] = []

        def op(kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
            new = ir.node(kind, list(inputs), attributes=attributes or None)
            new.outputs[0].name = names.fresh(f"{name}_{kind.lower()}")
            made.append(new)
            return new.outputs[0]

        def constant(what: str, data: Array) -> ir.Value:
            return add_constant(graph, names.fresh(f"{name}_{what}"), data)

        x = op("Cast", self.x.value, to=ir.DataType.FLOAT)
        zero = self.x.zero.astype(np.float32)
        if zero.ndim and self._is_conv:  # channels of products of matrices are the last axis
            zero = zero.reshape(-1, *[1] * (self.w.ndim - 2))
        x = op("Sub", x, constant("zero", zero))
        if node.op_type in ("Gemm", "MatMul"):
            wide = op("Cast", x, to=ir.DataType.DOUBLE)
            kept = {k: a.value for k, a in node.attributes.items() if k in ("transA", "transB")}
            total = op(node.op_type, wide, constant("integers", self.w.astype(np.float64)), **kept)
        else:
            total = self._convolved(x, op, constant)
        if self.bias is not None and self.whole_bias:
            total = op("Add", total, constant("bias", self._shaped(self.bias.astype(np.float64))))
        y = op("Cast", total, to=ir.DataType.FLOAT)
        y = op("Mul", y, constant("scale", self._shaped(self.scale)))
        if self.bias is not None and not self.whole_bias:
            y = op("Add", y, constant("bias", self._shaped(self.bias.astype(np.float32))))
        graph.insert_before(node, made)
        old = node.outputs[0]
        y.type, y.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, y, replace_graph_outputs=True)
        wanted, old.name = old.name, names.fresh(f"{name}_before")
        y.name = wanted
        graph.remove(node, safe=True)

    def _convolved(self, x: ir.Value, op: Any, constant: Any) -> ir.Value:
        """Return the sum of the convolutions of all digits, float64."""
        kept = {k: a.value for k, a in self.node.attributes.items()}
        parts = [x]
        if len(self.terms) > 1:
            base = constant("base", np.array(2.0**INPUT_DIGIT, dtype=np.float32))
            half = constant("half", np.array(2.0 ** (INPUT_DIGIT - 1), dtype=np.float32))
            upper = op("Floor", op("Div", op("Add", x, half), base))
            lower = op("Sub", x, op("Mul", upper, base))
            parts = [lower, upper]
        total: ir.Value | None = None
        for value, term in zip(parts, self.terms, strict=True):
            for digit, up in term.digits:
                y = op(
                    self.node.op_type, value, constant("digit", digit.astype(np.float32)), **kept
                )
                y = op("Cast", y, to=ir.DataType.DOUBLE)
                if term.shift + up:
                    y = op("Mul", y, constant("power", np.array(2.0 ** (term.shift + up))))
                total = y if total is None else op("Add", total, y)
        assert total is not None
        return total

    def _shaped(self, values: Array) -> Array:
        """Give one value a channel the shape that broadcasts over the answer."""
        if values.ndim == 0 or values.size == 1:
            return values.reshape(())
        return values.reshape(-1, *[1] * (self.w.ndim - 2)) if self._is_conv else values

    @property
    def _is_conv(self) -> bool:
        return self.node.op_type in _CONVOLUTIONS


def _weight_axis(node: ir.Node, rank: int) -> int:
    """Return the axis of the output channels in a weight."""
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul":
        return rank - 1
    return 0 if node.op_type == "Conv" else 1


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _read(value: ir.Value | None) -> _Read | None:
    """Return what a DequantizeLinear reads; None where there is none, or its numbers are no constants."""
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    held = [v.const_value if v is not None else None for v in producer.inputs[1:]]
    source = producer.inputs[0]
    if source is None or not held or held[0] is None or _attribute(producer, "block_size", 0):
        return None
    if len(held) > 1 and producer.inputs[2] is not None and held[1] is None:
        return None
    scale = _single(held[0].numpy().astype(np.float32))
    zero = np.zeros((), dtype=np.int64)
    if len(held) > 1 and held[1] is not None:
        zero = _single(held[1].numpy().astype(np.int64))
    axis = int(_attribute(producer, "axis", 1)) if scale.ndim or zero.ndim else None
    return _Read(source, zero, scale, axis)


def _single(values: Array) -> Array:
    """Return one number where all are the same."""
    return values.reshape(-1)[0] if (values == values.flat[0]).all() else values


def _by_output(node: ir.Node, x: _Read, w: Array) -> Array | None:
    """Return the scale of what an output adds up, () or (out,); None where channels of different scales are added up."""
    if x.axis is None:
        return x.scale
    if node.op_type in _CONVOLUTIONS:
        if x.axis != 1:
            return None
        if not x.scale.ndim:
            return x.scale
        depthwise = node.op_type == "Conv" and w.shape[1] == 1
        return np.repeat(x.scale, w.shape[0] // len(x.scale)) if depthwise else None
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    last = shape is not None and x.axis % len(shape) == len(shape) - 1
    return x.scale if last and not x.scale.ndim and not _attribute(node, "transA", 0) else None


def _bias(value: ir.Value, scale: Array) -> tuple[Array, bool] | None:
    """Return a bias, and whether it is whole steps of a scale; None where it is no constant."""
    if value.const_value is not None:
        return value.const_value.numpy(), False
    held = _read(value)
    if held is None or held.value.const_value is None:
        return None
    if held.zero.ndim:
        return None
    integers = held.value.const_value.numpy().astype(np.int64) - held.zero
    if np.array_equal(
        np.broadcast_to(held.scale, integers.shape), np.broadcast_to(scale, integers.shape)
    ):
        return integers, True
    return (integers.astype(np.float32) * held.scale).astype(np.float32), False


def _reach(x: _Read) -> tuple[int, int]:
    """Return the least and the largest integer that an operand can be, over its zero point."""
    dtype = x.value.dtype
    if dtype is None:  # a value without a type is what a QuantizeLinear with a zero point made
        producer = x.value.producer()
        zero = producer.inputs[2] if producer is not None and len(producer.inputs) > 2 else None
        dtype = zero.dtype if zero is not None else ir.DataType.UINT8
    assert dtype is not None
    bits = dtype.bitwidth
    signed = dtype.name.startswith("INT")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return int(np.min(low - x.zero)), int(np.max(high - x.zero))


def _sums(node: ir.Node, w: Array) -> tuple[int, ...]:
    """Return the axes of a weight that an output adds up over."""
    return (0, *range(2, w.ndim)) if node.op_type == "ConvTranspose" else tuple(range(1, w.ndim))


def _terms(node: ir.Node, x: _Read, w: Array) -> tuple[_Term, ...] | None:
    """Return the parts of an input, one or for 16 bits two, with digits; None where sums are too large for any."""
    low, high = _reach(x)
    parts = [(0, max(-low, high))]
    if parts[0][1] > 2**9:
        parts = [
            (0, 2 ** (INPUT_DIGIT - 1)),
            (INPUT_DIGIT, parts[0][1] // 2**INPUT_DIGIT + 1),
        ]
    found = []
    for shift, most in parts:
        digits = _digits(w, most, _sums(node, w))
        if digits is None:
            return None
        found.append(_Term(shift, digits))
    return tuple(found)


def _digits(w: Array, most: int, axes: tuple[int, ...]) -> list[tuple[Array, int]] | None:
    """Take a weight apart into digits that a convolution of float32 adds up exactly; return them, and their powers of 2.

    None where even the smallest digits make sums that are too large.
    """

    def fits(part: Array) -> bool:
        return int(np.abs(part).sum(axis=axes).max(initial=0)) * most < EXACT

    if fits(w):
        return [(w, 0)]
    for bits in range(8, 1, -1):
        half, rest = 2 ** (bits - 1), w
        found: list[tuple[Array, int]] = []
        while rest.any():
            digit = (rest + half) % (2 * half) - half
            found.append((digit, bits * len(found)))
            rest = (rest - digit) // (2 * half)
        if all(fits(d) for d, _ in found):
            return found
    return None
