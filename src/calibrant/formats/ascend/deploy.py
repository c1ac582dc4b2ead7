"""Write the deploy graph of the Ascend tools: AscendQuant, integer layers, AscendDequant.

Its operators are the vendor's own, in the default domain as its converter looks for them, so no ONNX runtime
runs it; the fake-quant graph (`ascend_fake_quant`) says what it computes.

    AscendQuant(x)        q = clip(round(x * scale) + offset)        scale = 1 / scale_d, dst_type INT4, INT8, INT16
    AscendDequant(y, p)   y * scale_d * scale_w                      p uint64, one entry a scale of the weight
    AscendAntiQuant(q)    (q + offset) * scale                       scale = scale_d, offset = -offset_d

The device subtracts the offset inside the layer. An entry of AscendDequant's second input holds the bits of
the float32 scale (31:0), a shift (39:32) and the weight's offset (47:40), both 0.

Source: docs/reference/artefacts.md, "Files of --format ascend".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.formats.ascend.parts import AscendGraph, Builder, build
from calibrant.numerics import QuantParams
from calibrant.plan import Plan
from calibrant.plan.parameters import LayerParameters, Parameters

__all__ = ["dequant_param", "emit_ascend_deploy", "packed_int4"]

_TYPES = {4: ir.DataType.INT4, 8: ir.DataType.INT8, 16: ir.DataType.INT16}


def emit_ascend_deploy(model: ir.Model, plan: Plan, params: Parameters) -> AscendGraph:
    """Write a prepared float model as the Ascend tools' deploy graph.

    A quantizer is named `<layer>.quant`, what stands behind a layer `<layer>.dequant`, and what makes floats
    of integers in front of another operator `<layer>.antiquant`. Equal quantizers on one tensor are one,
    with the name of the first.

    Raises:
        UnsupportedError: The graph has no form for what the plan asks.
        ModelError: A bias does not fit 32 bits.
    """
    return build(model, plan, params, _Deploy())


def dequant_param(
    scale: npt.NDArray[np.float32], *, shift: int = 0, offset_w: int = 0
) -> npt.NDArray[np.uint64]:
    """Pack what AscendDequant reads.

    Args:
        scale: scale_d * scale_w, (channels,) or () [units of the output per step].
        shift: Bits 39:32, 0 to 255.
        offset_w: Bits 47:40, a signed byte.

    Returns:
        uint64 (channels,).

    Example:
        >>> import numpy as np
        >>> hex(dequant_param(np.float32(1.0), shift=3)[0])
        '0x33f800000'
    """
    bits = np.atleast_1d(np.asarray(scale, dtype=np.float32)).view(np.uint32).astype(np.uint64)
    upper = np.uint64((shift & 0xFF) << 32 | (offset_w & 0xFF) << 40)
    packed: npt.NDArray[np.uint64] = bits | upper
    return packed


def packed_int4(values: npt.NDArray[np.int32], axis: int) -> npt.NDArray[np.int8]:
    """Pack values of 4 bits in pairs along an axis: the even index in the low half of a byte.

    An odd length is filled up with 0.

    Example:
        >>> import numpy as np
        >>> packed_int4(np.array([1, -1, 7]), 0).tolist()
        [-15, 7]
    """
    moved = np.moveaxis(values, axis, -1)
    if moved.shape[-1] % 2:
        moved = np.concatenate([moved, np.zeros_like(moved[..., :1])], axis=-1)
    low, high = moved[..., 0::2] & 0xF, moved[..., 1::2] & 0xF
    packed = (low | high << 4).astype(np.uint8).view(np.int8)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis))


class _Deploy:
    merges = True

    def quantize(self, b: Builder, x: ir.Value, p: QuantParams, name: str) -> list[ir.Node]:
        attributes = (
            ir.AttrFloat32("scale", float(np.float32(1) / p.scale)),
            ir.AttrFloat32("offset", float(p.zero_point)),
            ir.AttrString("dst_type", f"INT{p.dtype.bits}"),
        )
        dtype = _TYPES[p.dtype.bits]
        return [b.node("AscendQuant", [x], f"{name}.quant", dtype, attributes)]

    def restore(self, b: Builder, q: ir.Value, p: QuantParams, name: str) -> list[ir.Node]:
        attributes = (
            ir.AttrFloat32("scale", float(p.scale)),
            ir.AttrFloat32("offset", -float(p.zero_point)),
        )
        return [b.node("AscendAntiQuant", [q], f"{name}.antiquant", ir.DataType.FLOAT, attributes)]

    def weight(self, node: ir.Node, index: int, w: LayerParameters) -> npt.NDArray[np.generic]:
        if w.weight.dtype.bits == 4:
            return packed_int4(w.values, _input_axis(node, index))
        return w.values.astype(np.int16 if w.weight.dtype.bits == 16 else np.int8)

    def bias(self, steps: npt.NDArray[np.int32]) -> npt.NDArray[np.generic]:
        return steps

    def dequantize(
        self, b: Builder, y: ir.Value, scale: npt.NDArray[np.float32], axis: int, name: str
    ) -> list[ir.Node]:
        param = b.constant(f"{name}.dequant.param", dequant_param(scale))
        made = b.node("AscendDequant", [y, param], f"{name}.dequant")
        y.type = ir.TensorType(ir.DataType.INT32)
        return [made]


def _input_axis(node: ir.Node, index: int) -> int:
    """Return the axis of a weight that runs over input channels."""
    if node.op_type == "Conv":
        return 1
    if node.op_type == "ConvTranspose":
        return 0
    if node.op_type == "Gemm":
        flag = "transB" if index == 1 else "transA"
        attribute = node.attributes.get(flag)
        flipped = attribute is not None and attribute.as_int() == 1
        return 1 if flipped == (index == 1) else 0
    weight = node.inputs[index]
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 2
    return max(0, rank - 2) if index == 1 else rank - 1
