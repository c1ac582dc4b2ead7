"""Read the quantizers of a quantized graph: the range of each grid, and what a constant stands for.

    QuantizeLinear -> DequantizeLinear        scale and zero point are constants beside it, the type says the ends
    FakeQuantize(x, scale, zero_point)        of calibrant: the ends are attributes
    integers -> DequantizeLinear              a weight or a bias

Between the ends of a grid values are rounded; beyond them they are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["Constant", "Grid", "constant_of", "grid_behind"]

Array = npt.NDArray[Any]

#: Storage type -> lowest and highest integer.
_ENDS = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The ends of a grid, in the shape that broadcasts over the tensor.

    Args:
        low: Least value that it holds.
        high: Largest value that it holds.
        step: Distance of its values; 0 where that is not known.
    """

    low: Array
    high: Array
    step: Array = field(default_factory=lambda: np.zeros(()))

    def clip(self, x: Array) -> Array:
        """Return values, those beyond the ends at the end."""
        return np.clip(x, self.low, self.high).astype(x.dtype, copy=False)

    def on(self, x: Array) -> Array:
        """Return the nearest values of the grid; ties go to the even number of steps, as ONNX has it."""
        steps = np.rint(x / self.step.astype(np.float32))
        found: Array = np.clip(steps * self.step, self.low, self.high)
        return found.astype(x.dtype, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant as its reader finds it.

    Args:
        values: What it stands for.
        grid: The grid that it lies on; None for a float.
    """

    values: Array
    grid: Grid | None = None


def grid_behind(source: ir.Value, value: ir.Value) -> Grid | None:
    """Return the grid between a tensor and what its reader finds; None where it is not one that can be read.

    Args:
        source: The tensor in front of the quantizer.
        value: What comes out of it.
    """
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "FakeQuantize":
        return _fake(node) if node.inputs[0] is source else None
    quantize = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node.op_type != "DequantizeLinear" or quantize is None:
        return None
    if quantize.op_type != "QuantizeLinear" or quantize.inputs[0] is not source:
        return None
    if not _same_scale(quantize, node):
        return None
    return _linear(node, quantize.outputs[0].dtype)


def constant_of(value: ir.Value) -> Constant | None:
    """Return a constant input; None where it is none, or is made in a way that is not known here."""
    if value.const_value is not None:
        return Constant(np.asarray(value.const_value.numpy()))
    node = value.producer()
    if node is None or node.inputs[0] is None:
        return None
    inner = constant_of(node.inputs[0])
    if inner is None:
        return None
    if node.op_type in ("Identity", "Cast"):
        return inner if inner.values.dtype.kind == "f" else None
    if node.op_type == "FakeQuantize":
        return Constant(inner.values, _fake(node))
    if (
        node.op_type == "QuantizeLinear"
    ):  # of a float weight: the pair behind it is read as a whole
        return inner
    if node.op_type != "DequantizeLinear":
        return None
    return _dequantized(node, inner.values)


def _dequantized(node: ir.Node, x: Array) -> Constant | None:
    quantize = node.inputs[0].producer() if node.inputs[0] is not None else None
    kind = node.inputs[0].dtype if node.inputs[0] is not None else None
    if quantize is not None and quantize.op_type == "QuantizeLinear":
        kind = quantize.outputs[0].dtype or _zero_type(quantize)
    grid = _linear(node, kind)
    numbers = _numbers(node, x.ndim)
    if grid is None or numbers is None:
        return None
    scale, zero = numbers
    if x.dtype.kind == "f":
        low, high = _ENDS.get(kind or ir.DataType.UNDEFINED, (-np.inf, np.inf))
        x = np.clip(np.rint(x / scale) + zero, low, high)
    return Constant(((x.astype(np.float64) - zero) * scale).astype(np.float32), grid)


def _linear(node: ir.Node, kind: ir.DataType | None) -> Grid | None:
    """Return the grid of a DequantizeLinear."""
    kind = kind if kind in _ENDS else _zero_type(node)
    value = node.inputs[0]
    shape = value.shape if value is not None else None
    if shape is None:
        shape = node.outputs[0].shape
    scale = node.inputs[1]
    rank = len(shape) if shape is not None else 0
    if kind not in _ENDS or scale is None:
        return None
    if shape is None and scale.const_value is not None and scale.const_value.size > 1:
        return None
    numbers = _numbers(node, rank)
    if numbers is None:
        return None
    low, high = _ENDS[kind]
    scales, zero = numbers
    return Grid((low - zero) * scales, (high - zero) * scales, scales)


def _numbers(node: ir.Node, rank: int) -> tuple[Array, Array] | None:
    """Return scale and zero point, in the shape that broadcasts; None for those that are computed or in blocks."""
    if "block_size" in node.attributes and node.attributes["block_size"].as_int():
        return None
    found = []
    for index in (1, 2):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is None:
            found.append(np.zeros((), dtype=np.float64))
            continue
        if value.const_value is None:
            return None
        x = np.asarray(value.const_value.numpy()).astype(np.float64)
        if x.size > 1:
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
            shape = [1] * rank
            if x.ndim != 1 or not -rank <= axis < rank:
                return None
            shape[axis] = -1
            x = x.reshape(shape)
        else:
            x = x.reshape(())
        found.append(x)
    return found[0], found[1]


def _fake(node: ir.Node) -> Grid | None:
    """Return the grid of a call of FakeQuantize, whose numbers broadcast as they are."""
    scale, zero = node.inputs[1], node.inputs[2]
    if scale is None or zero is None or scale.const_value is None or zero.const_value is None:
        return None
    ends = [node.attributes[n].as_float() for n in ("qmin", "qmax")]
    step = np.asarray(scale.const_value.numpy(), np.float64)
    shift = np.asarray(zero.const_value.numpy(), np.float64)
    return Grid((ends[0] - shift) * step, (ends[1] - shift) * step, step)


def _same_scale(quantize: ir.Node, back: ir.Node) -> bool:
    """Whether a pair gives values in the units that it takes."""
    one, other = (n.inputs[1] for n in (quantize, back))
    if one is other:
        return True
    numbers = [v.const_value for v in (one, other) if v is not None and v.const_value is not None]
    return len(numbers) == 2 and np.array_equal(numbers[0].numpy(), numbers[1].numpy())


def _zero_type(node: ir.Node) -> ir.DataType | None:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        return zero.dtype
    return ir.DataType.UINT8 if node.op_type == "QuantizeLinear" else None
