"""Biases of layers: where the sum with them is seen, and how they are changed. What the corrections share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.ops import bias_of
from calibrant.graph.values import node_named
from calibrant.plan import WeightDecision
from calibrant.plan.parameters import LayerParameters

__all__ = [
    "Delta",
    "bias_factor",
    "can_correct",
    "cross_validated",
    "has_other_bias",
    "output_axis",
    "output_of",
    "with_bias",
]

FloatArray = npt.NDArray[np.float64]


def output_of(model: ir.Model, weight: WeightDecision) -> str:
    """Return the tensor that holds a layer's product with its bias."""
    node = node_named(model.graph, weight.layer)
    place = bias_of(node)
    return (place[0] if place is not None else node).outputs[0].name or ""


def output_axis(model: ir.Model, weight: WeightDecision) -> int:
    """Return the axis of that tensor that a bias lies along."""
    return -1 if node_named(model.graph, weight.layer).op_type == "MatMul" else 1


def has_other_bias(model: ir.Model, weight: WeightDecision) -> bool:
    """Whether a layer adds something in the place of a bias that is no constant."""
    node = node_named(model.graph, weight.layer)
    return weight.bias is None and len(node.inputs) > 2 and node.inputs[2] is not None


def bias_factor(node: ir.Node) -> float:
    """What a layer multiplies its bias with: beta of a Gemm."""
    beta = node.attributes.get("beta")
    return beta.as_float() if beta is not None else 1.0


def with_bias(
    layer: LayerParameters, model: ir.Model, weight: WeightDecision, delta: npt.NDArray[np.float32]
) -> LayerParameters:
    """Return a layer whose output is `delta` (out,) larger."""
    bias = layer.bias
    if bias is None:
        bias = np.zeros_like(delta)
        if weight.bias is not None:
            const = model.graph.initializers[weight.bias].const_value
            assert const is not None
            bias = const.numpy().astype(np.float32)
    factor = np.float32(bias_factor(node_named(model.graph, weight.layer)))
    return replace(layer, bias=bias + delta / factor)


@dataclass(frozen=True, slots=True)
class Delta:
    """A correction (out,), and the squared error a value that it removes on samples it was not taken from."""

    delta: FloatArray
    gain: float


def cross_validated(error: FloatArray) -> Delta:
    """Return the mean error (out,) and the squared error it removes on samples it was not taken from."""
    even, odd = error[::2].mean(axis=0), error[1::2].mean(axis=0)  # (out,)
    gains = [2 * a * b - a * a for a, b in ((even, odd), (odd, even))]
    return Delta(error.mean(axis=0), float(np.mean(gains)))


def can_correct(model: ir.Model, weight: WeightDecision) -> bool:
    """Whether a layer has a bias, or can be given one."""
    if weight.channel_axis is None:
        return False
    node = node_named(model.graph, weight.layer)
    if weight.input_index != 1:
        return False
    if node.op_type == "MatMul":
        return weight.bias is not None
    return bias_factor(node) != 0 and not has_other_bias(model, weight)
