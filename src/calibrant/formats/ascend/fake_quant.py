"""Write the fake-quant graph of the Ascend tools: integers in float tensors, with standard operators.

    x -> Mul(1 / scale_d) -> Round -> Add(offset) -> Clip -> Sub(offset) -> layer -> Mul(scale_d * scale_w)

The layer's weight and bias are float tensors that hold integers. Any ONNX runtime runs it; it differs from the
deployable model by the rounding of biases and by the sums' order.

Source: docs/reference/artefacts.md, "Files of --format ascend" (nodes and names);
docs/explanation/grid.md (the reciprocal is stored).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.formats.ascend.parts import AscendGraph, Builder, build
from calibrant.numerics import QuantParams
from calibrant.plan import Plan
from calibrant.plan.parameters import LayerParameters, Parameters

__all__ = ["emit_ascend_fake_quant"]


def emit_ascend_fake_quant(model: ir.Model, plan: Plan, params: Parameters) -> AscendGraph:
    """Write a prepared float model as the Ascend tools' fake-quant graph.

    Nodes in front of a layer are named `<layer>.quant.fakequant.*`, those behind it
    `<layer>.fakedequant.*`; where several inputs of a node are quantized, `<layer>.input<n>` stands for
    the layer.

    Raises:
        UnsupportedError: The graph has no form for what the plan asks.
        ModelError: A bias does not fit 32 bits.
    """
    return build(model, plan, params, _FakeQuant())


class _FakeQuant:
    merges = False

    def quantize(self, b: Builder, x: ir.Value, p: QuantParams, name: str) -> list[ir.Node]:
        head = f"{name}.quant.fakequant"
        offset = b.constant(f"{head}.offset", p.zero_point.astype(np.float32))
        low = b.constant(f"{head}.min", np.array(p.dtype.qmin, dtype=np.float32))
        high = b.constant(f"{head}.max", np.array(p.dtype.qmax, dtype=np.float32))
        scale = b.constant(f"{head}.scale", np.asarray(np.float32(1) / p.scale, dtype=np.float32))
        mul = b.node("Mul", [x, scale], f"{head}.mul")
        steps = b.node("Round", [mul.outputs[0]], f"{head}.round")
        add = b.node("Add", [steps.outputs[0], offset], f"{head}.add")
        clip = b.node("Clip", [add.outputs[0], low, high], f"{head}.clip")
        sub = b.node("Sub", [clip.outputs[0], offset], f"{head}.sub")
        return [mul, steps, add, clip, sub]

    def restore(self, b: Builder, q: ir.Value, p: QuantParams, name: str) -> list[ir.Node]:
        return self.dequantize(b, q, p.scale, 0, name)

    def weight(self, node: ir.Node, index: int, w: LayerParameters) -> npt.NDArray[np.generic]:
        return w.values.astype(np.float32)

    def bias(self, steps: npt.NDArray[np.int32]) -> npt.NDArray[np.generic]:
        return steps.astype(np.float32)

    def dequantize(
        self, b: Builder, y: ir.Value, scale: npt.NDArray[np.float32], axis: int, name: str
    ) -> list[ir.Node]:
        head = f"{name}.fakedequant"
        if scale.ndim and (axis == 1 or y.shape is not None):
            shape = [1] * _rank(y)
            shape[axis] = -1
            scale = scale.reshape(shape)
        factor = b.constant(f"{head}.scale", scale)
        return [b.node("Mul", [y, factor], f"{head}.mul")]


def _rank(y: ir.Value) -> int:
    """Return the rank of a layer's output; a convolution has that of its weight."""
    if y.shape is not None:
        return len(y.shape)
    producer = y.producer()
    weight = producer.inputs[1] if producer is not None else None
    assert weight is not None
    assert weight.shape is not None
    return len(weight.shape)
