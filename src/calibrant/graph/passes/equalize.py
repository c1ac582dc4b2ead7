"""Even out the channels of a tensor by moving scale between the layers on its two sides.

A tensor has one activation scale for all its channels, so a channel of small range is quantized coarsely
beside one of large range. Between two layers with a positively homogeneous function in the middle
(f(s x) = s f(x) for s > 0: none, ReLU, LeakyReLU, PReLU, pooling), dividing channel j by f_j costs nothing:

    source:  w[j, …] / f_j,  b[j] / f_j          (weights have a scale for each of these channels)
    sink:    w[…, j, …] * f_j                    (the same numbers come out)

with  f_j = X_j**a / W_j**(1 - a),  X_j = max |activation| of channel j,  W_j = max |sink weight| that reads it.
A depthwise sink has a scale for each channel of its own, so there nothing is lost and f_j = X_j. Factors are
normalised to a geometric mean of 1 and limited to [1/64, 64].

Sources: Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019 (moving scale across a homogeneous function); ascend.md 8 (the formula with strength a).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.ops import is_constant, is_depthwise

__all__ = ["Equalized", "Pair", "equalize", "find_pairs"]

FACTOR_LIMIT = 64.0

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu"})
_CHANNELWISE = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor between layers that can exchange scale.

    Args:
        source: Node whose output channels are rescaled.
        tensor: Tensor that the sinks read.
        axis: Its channel axis.
        sinks: Nodes that read it, all of them.
        source_values: Initializers of the source to divide by f, with the axis that f lies on.
        sink_values: Weights of the sinks to multiply by f, with the axis that f lies on.
        depthwise: Every sink has a scale of its own for each channel.
    """

    source: str
    tensor: str
    axis: int
    sinks: tuple[str, ...]
    source_values: tuple[tuple[str, int], ...]
    sink_values: tuple[tuple[str, int], ...]
    depthwise: bool


@dataclass(frozen=True, slots=True)
class Equalized:
    """What was done to one pair: its factors' spread, largest over smallest."""

    source: str
    sinks: tuple[str, ...]
    spread: float


def find_pairs(model: ir.Model) -> list[Pair]:
    """Find every tensor whose channels can be rescaled without changing what the model computes."""
    pairs = []
    for node in model.graph:
        source = _source(node)
        if source is None:
            continue
        value, axis, source_values = source
        value = _through(value)
        if value.is_graph_output() or not value.uses():
            continue
        sinks = [_sink(use.node, use.idx) for use in value.uses()]
        found = [s for s in sinks if s is not None]
        if len(found) != len(sinks):
            continue
        names = [name for name, _ in (*source_values, *found)]
        if len(set(names)) != len(names) or any(_shared(model, name) for name in names):
            continue
        consumers = tuple(dict.fromkeys(n.name or "" for n in value.consumers()))
        pairs.append(
            Pair(
                node.name or "",
                value.name or "",
                axis,
                consumers,
                source_values,
                tuple(found),
                all(n.op_type == "Conv" and is_depthwise(n) for n in value.consumers()),
            )
        )
    return pairs


def equalize(
    model: ir.Model,
    pairs: Sequence[Pair],
    magnitudes: Mapping[str, FloatArray],
    *,
    strength: float = 0.5,
) -> list[Equalized]:
    """Rescale the channels of each pair, in place.

    Args:
        model: A prepared model with batch normalization folded.
        pairs: From `find_pairs` of this model.
        magnitudes: Tensor -> max |x| of each channel (channels,), from channel statistics.
        strength: How much of the difference moves from activations to weights, 0 to 1.

    Returns:
        One entry for each pair that changed.
    """
    done = []
    initializers = model.graph.initializers
    for pair in pairs:
        x = np.asarray(magnitudes[pair.tensor], dtype=np.float64)  # (channels,)
        w = _magnitude_by_input(initializers, pair, x.size)  # (channels,)
        f = _factors(x, w, 1.0 if pair.depthwise else strength)
        if f is None:
            continue
        for name, axis in pair.source_values:
            _multiply(initializers[name], 1.0 / f, axis)
        for name, axis in pair.sink_values:
            _multiply(initializers[name], f, axis)
        done.append(Equalized(pair.source, pair.sinks, float(f.max() / f.min())))
    return done


def _factors(x: FloatArray, w: FloatArray, strength: float) -> FloatArray | None:
    """Return f (channels,), geometric mean 1; None where the tensor is all zero."""
    alive = (x > 0) & (w > 0)
    if not alive.any():
        return None
    f = np.ones_like(x)
    f[alive] = x[alive] ** strength / w[alive] ** (1 - strength)
    f[alive] /= np.exp(np.log(f[alive]).mean())
    return np.clip(f, 1 / FACTOR_LIMIT, FACTOR_LIMIT)


def _magnitude_by_input(
    initializers: Mapping[str, ir.Value], pair: Pair, channels: int
) -> FloatArray:
    """Largest |weight| that reads each channel, over all sinks, each relative to its own largest."""
    found = np.zeros(channels)
    for name, axis in pair.sink_values:
        const = initializers[name].const_value
        assert const is not None
        w = np.abs(np.moveaxis(const.numpy(), axis, 0)).reshape(channels, -1).max(axis=1)
        found = np.maximum(found, w / max(float(w.max()), 1e-30))
    return found


def _multiply(value: ir.Value, factor: FloatArray, axis: int) -> None:
    assert value.const_value is not None
    data = value.const_value.numpy()
    shape = [1] * data.ndim
    shape[axis] = -1
    scaled = (data * factor.reshape(shape)).astype(data.dtype)
    value.const_value = ir.tensor(scaled, name=value.name)


def _source(node: ir.Node) -> tuple[ir.Value, int, tuple[tuple[str, int], ...]] | None:
    """Return the output whose channels a node can rescale, its axis, and the values to divide."""
    op = node.op_type
    inputs = node.inputs
    if op in ("Conv", "ConvTranspose"):
        if not all(is_constant(v) for v in inputs[1:]) or (op != "Conv" and _groups(node) != 1):
            return None
        values = [(_name(inputs[1]), 0 if op == "Conv" else 1)]
        values += [(_name(v), 0) for v in inputs[2:3] if v is not None]
        return node.outputs[0], 1, tuple(values)
    if op == "Gemm":
        if not all(is_constant(v) for v in inputs[1:]):
            return None
        values = [(_name(inputs[1]), 0 if _int(node, "transB") else 1)]
        for bias in inputs[2:3]:
            if bias is not None:
                if bias.shape is None or len(bias.shape) != 1:
                    return None
                values.append((_name(bias), 0))
        return node.outputs[0], 1, tuple(values)
    if op == "LayerNormalization":
        if not all(is_constant(v) for v in inputs[1:]) or _int(node, "axis", -1) not in (-1,):
            return None
        shape = node.outputs[0].shape
        if shape is None:
            return None
        values = [(_name(v), 0) for v in inputs[1:3] if v is not None]
        return node.outputs[0], len(shape) - 1, tuple(values)
    return None


def _through(value: ir.Value) -> ir.Value:
    """Follow a value through the functions that let a positive factor pass."""
    while len(value.uses()) == 1 and not value.is_graph_output():
        node = value.uses()[0].node
        passes = node.op_type in _CHANNELWISE or (
            node.op_type in _HOMOGENEOUS and (len(node.inputs) < 2 or is_constant(node.inputs[1]))
        )
        if not passes or value.uses()[0].idx != 0:
            break
        value = node.outputs[0]
    return value


def _sink(node: ir.Node, index: int) -> tuple[str, int] | None:
    """Return the weight that a reader multiplies a tensor's channels with, and its axis."""
    if index != 0 or len(node.inputs) < 2 or not is_constant(node.inputs[1]):
        return None
    weight = node.inputs[1]
    if node.op_type == "Conv":
        if _groups(node) == 1:
            return _name(weight), 1
        assert weight is not None
        assert weight.shape is not None
        if is_depthwise(node) and weight.shape[0] == _groups(node):
            return _name(weight), 0
        return None
    if node.op_type == "ConvTranspose":
        return (_name(weight), 0) if _groups(node) == 1 else None
    if node.op_type == "Gemm":
        return None if _int(node, "transA") else (_name(weight), 1 if _int(node, "transB") else 0)
    if node.op_type == "MatMul":
        assert weight is not None
        if weight.shape is None or len(weight.shape) != 2:
            return None
        return _name(weight), 0
    return None


def _shared(model: ir.Model, name: str) -> bool:
    return len(model.graph.initializers[name].uses()) != 1


def _groups(node: ir.Node) -> int:
    return _int(node, "group", 1)


def _int(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default


def _name(value: ir.Value | None) -> str:
    assert value is not None
    return value.name or ""
