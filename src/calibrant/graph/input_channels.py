"""Which entries of a layer's weight multiply which channel of its input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["spread_over_weight"]


def spread_over_weight(
    node: ir.Node, shape: tuple[int, ...], values: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Shape values by input channel so that they broadcast over the weight of the channel's layer.

        Conv           w[o, j, ...]     channel j of the group of o: (out, in/group, 1, ...)
        ConvTranspose  w[c, ...]        channel c:                   (in, 1, ...)
        Gemm           w[c, o]          channel c:                   (in, 1), with transB (1, in)
        MatMul         w[..., c, o]     channel c:                   (in, 1); (in,) for a vector

    Args:
        node: A Conv, ConvTranspose, Gemm or MatMul whose input 1 is its weight.
        shape: Shape of the weight.
        values: (in,) one for each channel of input 0.

    Returns:
        An array of the rank of the weight, or of 2 axes for a stack of matrices.
    """
    if node.op_type == "Conv":
        group = _int(node, "group", 1)
        rows = np.repeat(
            values.reshape(group, shape[1]), shape[0] // group, axis=0
        )  # (out, in/group)
        return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))
    if node.op_type == "ConvTranspose":
        return values.reshape(-1, *[1] * (len(shape) - 1))
    if node.op_type == "Gemm" and _int(node, "transB", 0):
        return values.reshape(1, -1)
    return values.reshape(-1, 1) if len(shape) > 1 else values


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default
