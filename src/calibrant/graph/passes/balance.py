"""Balance a layer: divide its input by a factor for each channel, multiply its weight by the same.

    y = x W = (x / f) (f W)

Where the layer before can take the division, `passes.equalize` moves it there for free. Everywhere else (a
normalization that a residual branch reads too, the output of an attention) a Mul by 1/f is put in front of
the layer, and the quantizer behind the Mul sees even channels.

    f_j = X_j**a / W_j**(1 - a)        X_j = max |activation|, W_j = max |weight| of input channel j

Channels that are zero (below the float32 epsilon): with xo = max X_j / f_j and wo = max W_j f_j over the others,
X_j = W_j = 0 gives f_j = 1, X_j = 0 gives wo / W_j, W_j = 0 gives X_j / xo; all ones where the whole activation or
weight is zero. Where every channel is zero on one of the two sides, xo = wo = 1 (the source does not say).

Source: the DMQ balancer of Ascend's tools (docs/explanation/equalization.md, "Balancing"). Also
known as: Xiao et al., "SmoothQuant", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import ConfigValueError, DataError
from calibrant.graph.ops import is_constant
from calibrant.graph.values import Names, values_by_name

__all__ = [
    "Balanced",
    "balance",
    "balance_factors",
    "channel_axis",
    "factors_by_layer",
    "weight_by_channels",
    "weight_magnitudes",
]

EPS = 1.192092896e-07

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """One Mul that was put in.

    Args:
        tensor: Tensor that is divided.
        layers: Layers that read the divided tensor.
        factors: f (channels,), float32.
        asked: A recipe asked for it; then it was done before channels were equalised.
    """

    tensor: str
    layers: tuple[str, ...]
    factors: npt.NDArray[np.float32]
    asked: bool = False


def balance_factors(
    x: npt.ArrayLike, w: npt.ArrayLike, strength: float = 0.5, *, tiny_to_one: bool = False
) -> FloatArray:
    """Return the factor of each input channel.

    Args:
        x: max |activation| (channels,), units of the activation.
        w: max |weight| (channels,), units of the weight.
        strength: Migration strength in [0.2, 0.8]; larger moves more difficulty to the weights.
        tiny_to_one: A magnitude below 2**-23 counts as nothing, as in the vendor's rule; otherwise 0 alone does, so
            that the unit of the activation makes no difference.

    Returns:
        f (channels,), float64.

    Raises:
        ConfigValueError: The strength is out of range.
        DataError: The numbers of channels differ, or a factor is outside (2**-23, 2**23).

    Example:
        >>> balance_factors([4.0, 0.0, 9.0], [0.5, 2.0, 4.0]).round(4).tolist()
        [2.8284, 3.0, 1.5]
    """
    if not 0.2 <= strength <= 0.8:
        raise ConfigValueError(f"balance is {strength!r}; it lies in [0.2, 0.8].")
    act, weight = np.asarray(x, dtype=np.float64), np.asarray(w, dtype=np.float64)
    if act.shape != weight.shape:
        raise DataError(
            f"A layer to balance has {act.size} activation channels and {weight.size} weight channels."
        )
    f = _formula(act, weight, strength, nothing=EPS if tiny_to_one else 0.0)
    if _beyond(f).any() and not tiny_to_one:
        # A power of two that moves from the activation to the weight changes no integer.
        alive = (act > 0) | (weight > 0)
        octaves = np.log2(f[alive])
        f[alive] = np.ldexp(f[alive], -int(np.rint((octaves.max() + octaves.min()) / 2)))
    if _beyond(f).any():
        j = int(np.flatnonzero(_beyond(f))[0])
        raise DataError(
            f"The balance factor of channel {j} is {f[j]:.3g}, from a largest activation of {act[j]:.3g} and a "
            f"largest weight of {weight[j]:.3g}; it lies in (2**-23, 2**23)."
        )
    return f


def _beyond(f: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray((f <= EPS) | (f >= 1 / EPS))


def _formula(
    act: FloatArray, weight: FloatArray, strength: float, *, nothing: float
) -> FloatArray:
    """Return the factors; magnitudes below `nothing` count as 0."""
    no_x, no_w = ((m == 0) | (m < nothing) for m in (act, weight))
    if no_x.all() or no_w.all():
        return np.ones_like(act)
    f = np.zeros_like(act)
    f[~no_w] = act[~no_w] ** strength / weight[~no_w] ** (1 - strength)
    valid = (f > 0) & (f >= nothing)
    largest_x, largest_w = 1.0, 1.0
    if valid.any():
        largest_x, largest_w = (act[valid] / f[valid]).max(), (weight[valid] * f[valid]).max()
    f[no_x & no_w] = 1.0
    only_w, only_x = no_x & ~no_w, no_w & ~no_x
    f[only_w] = largest_w / weight[only_w]
    f[only_x] = act[only_x] / largest_x
    return f


def channel_axis(node: ir.Node) -> int:
    """Return the axis of a layer's input that its weight's input channels belong to; -1 is the last."""
    return 1 if node.op_type in ("Conv", "ConvTranspose") else -1


def weight_magnitudes(node: ir.Node) -> FloatArray | None:
    """Return max |weight| of each input channel (channels,); None where a node cannot be balanced."""
    rows = _by_input_channel(node)
    return None if rows is None else np.abs(rows).max(axis=1).astype(np.float64)


def factors_by_layer(balanced: Iterable[Balanced]) -> dict[str, npt.NDArray[np.float32]]:
    """Return what the input of each balanced layer is divided by, channel by channel, by node name."""
    return {layer: b.factors for b in balanced for layer in b.layers}


def balance(model: ir.Model, tensor: str, layers: Sequence[str], factors: FloatArray) -> Balanced:
    """Put a Mul by 1/f in front of layers that read one tensor, and multiply their weights, in place.

    Args:
        model: A prepared model.
        tensor: Tensor that all the layers read as their input 0.
        layers: Node names.
        factors: f (channels,).
    """
    graph = model.graph
    source = values_by_name(graph)[tensor]
    nodes = [graph.node(name) for name in layers]
    f = factors.astype(np.float32)
    shape = [1, -1, *[1] * (_weight_rank(nodes[0]) - 2)]  # a matrix has rank 2
    if source.shape is not None and len(source.shape) == 1:
        shape = [-1]  # a vector stays one
    names = Names(graph)
    name = names.fresh(f"{tensor}__balance" if len(layers) > 1 else f"{layers[0]}__balance")
    inverse = _initializer(graph, f"{name}_factor", (np.float32(1) / f).reshape(shape))
    mul = ir.Node("", "Mul", [source, inverse], name=name)
    mul.outputs[0].name = f"{name}_output"
    mul.outputs[0].shape, mul.outputs[0].type = source.shape, source.type
    for node in nodes:
        rows = _by_input_channel(node)
        assert rows is not None
        weight = node.inputs[1]
        assert weight is not None
        scaled = _restore(node, rows * f[:, None].astype(rows.dtype))
        node.replace_input_with(
            1, _initializer(graph, names.fresh(f"{node.name}__weight"), scaled)
        )
        node.replace_input_with(0, mul.outputs[0])
    first = min(nodes, key=lambda n: graph.index(n))
    graph.insert_before(first, [mul])
    return Balanced(tensor, tuple(layers), f)


def _weight(node: ir.Node) -> npt.NDArray[np.floating] | None:
    if len(node.inputs) < 2 or not is_constant(node.inputs[1]) or is_constant(node.inputs[0]):
        return None
    assert node.inputs[1] is not None
    assert node.inputs[1].const_value is not None
    return node.inputs[1].const_value.numpy()


def _weight_rank(node: ir.Node) -> int:
    weight = _weight(node)
    assert weight is not None
    return weight.ndim


def _groups(node: ir.Node) -> int:
    attribute = node.attributes.get("group")
    return attribute.as_int() if attribute is not None else 1


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and attribute.as_int() != 0


def weight_by_channels(node: ir.Node) -> npt.NDArray[np.floating] | None:
    """Return a weight as (groups, inputs, outputs, positions); None where a node cannot be balanced."""
    w = _weight(node)
    if w is None:
        return None
    g = _groups(node)
    if node.op_type == "Conv":
        return w.reshape(g, w.shape[0] // g, w.shape[1], -1).swapaxes(1, 2)
    if node.op_type == "ConvTranspose":
        return w.reshape(g, w.shape[0] // g, w.shape[1], -1)
    if node.op_type == "Gemm" and not _flag(node, "transA"):
        return (w.T if _flag(node, "transB") else w)[None, :, :, None]
    if node.op_type == "MatMul" and w.ndim == 2:
        return w[None, :, :, None]
    return None


def _by_input_channel(node: ir.Node) -> npt.NDArray[np.floating] | None:
    """Lay a weight out as (input channels, everything else)."""
    w = weight_by_channels(node)
    return None if w is None else w.reshape(w.shape[0] * w.shape[1], -1)


def _restore(node: ir.Node, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Undo `_by_input_channel`."""
    w = _weight(node)
    assert w is not None
    if node.op_type == "Conv":
        g = _groups(node)
        split = rows.reshape(g, w.shape[1], w.shape[0] // g, -1).swapaxes(1, 2)
        rows = split.reshape(w.shape)
    elif node.op_type == "ConvTranspose":
        rows = rows.reshape(w.shape)
    elif node.op_type == "Gemm" and _flag(node, "transB"):
        rows = rows.T
    return np.ascontiguousarray(rows, dtype=np.float32)


def _initializer(graph: ir.Graph, name: str, data: npt.NDArray[np.float32]) -> ir.Value:
    value = ir.Value(
        name=name,
        const_value=ir.tensor(data, name=name),
        shape=ir.Shape(data.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph.register_initializer(value)
    return value
