"""Fold batch normalization into the convolution or matrix product before it.

    y = gamma * (conv(x, w) + b - mean) / sqrt(var + eps) + beta
      = conv(x, w * f) + (b - mean) * f + beta,     f = gamma / sqrt(var + eps)       (out,)

A node is left alone when (1) the layer is in the skip list, (2) something else reads the layer's output,
(3) the normalization is in training mode, (4) a parameter is not constant, (5) a Gemm scales its product or
its bias, or (6) the folded numbers are not finite.

Source: docs/reference/ascend-configurations.md, "Fusion".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import ConfigValueError, Problems, did_you_mean
from calibrant.graph.ops import is_constant
from calibrant.graph.values import Names, add_constant

__all__ = ["FOLDED", "Folded", "check_foldable", "fuse_batchnorm"]

#: Key in a node's `meta` of the names of the nodes that were folded into it.
FOLDED = "calibrant.folded"

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True, slots=True)
class Folded:
    """One normalization that was folded, or the reason why it was not."""

    layer: str
    batch_norm: str
    reason: str = ""

    @property
    def done(self) -> bool:
        """Whether it was folded."""
        return not self.reason


def fuse_batchnorm(
    model: ir.Model, *, skip: tuple[str, ...] = (), check: bool = True
) -> list[Folded]:
    """Fold each BatchNormalization that stands behind a layer, in place.

    Args:
        model: A prepared model.
        skip: Names of layers to leave as they are.
        check: Check these names; a recipe's are checked with its other names (`plan.effective`).

    Returns:
        One entry for each pair found.

    Raises:
        ConfigValueError: A name in `skip` is no layer that can have a batch normalization behind it.
    """
    if check:
        check_foldable(model, skip)
    results: list[Folded] = []
    names = Names(model.graph)
    for node in list(model.graph):
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
            continue
        source = node.inputs[0]
        layer = source.producer() if source is not None else None
        if layer is None or layer.op_type not in _LAYERS or layer.graph is not node.graph:
            continue
        reason = _why_not(layer, node, skip) or _fold(model.graph, names, layer, node)
        results.append(Folded(layer.name or "", node.name or "", reason))
    return results


def check_foldable(
    model: ir.Model, names: tuple[str, ...], origin: str = "", types: tuple[str, ...] = ()
) -> None:
    """Check that names are those of layers of a type that a normalization can be folded into.

    Args:
        model: The model.
        names: The names.
        origin: Where they stand, for messages.
        types: The types; none for all that are folded.

    Raises:
        ConfigValueError: Some are not; all of them, in one error.
    """
    types = types or _LAYERS
    known = {n.name or "": n.op_type for n in model.graph}
    layers = [name for name, op_type in known.items() if op_type in types]
    problems = Problems()
    for name in (n for n in names if n not in layers):
        what = f"is a {known[name]}" if name in known else "is not in the model"
        problems.add(
            ConfigValueError(
                f"{origin or 'fusion.skip'} names '{name}', which {what}; batch normalization is folded into "
                f"{', '.join(types)} ({len(layers)} such layers).{did_you_mean(name, layers)}"
            )
        )
    problems.check()


def _why_not(layer: ir.Node, norm: ir.Node, skip: tuple[str, ...]) -> str:
    out = layer.outputs[0]
    if layer.name in skip:
        return "in the skip list"
    if out.is_graph_output() or len(out.uses()) > 1:
        return "the layer's output has other readers"
    mode = norm.attributes.get("training_mode")
    if (mode is not None and mode.as_int() != 0) or any(v.uses() for v in norm.outputs[1:]):
        return "the normalization is in training mode"
    if not all(is_constant(v) for v in (*norm.inputs[1:5], *layer.inputs[1:])):
        return "a parameter is not constant"
    return ""


def _fold(graph: ir.Graph, names: Names, layer: ir.Node, norm: ir.Node) -> str:
    gamma, beta, mean, var = (_array(v) for v in norm.inputs[1:5])  # each (out,)
    epsilon = norm.attributes.get("epsilon")
    eps = epsilon.as_float() if epsilon is not None else 1e-5
    weight = _array(layer.inputs[1])
    dtype = _constant(layer.inputs[1]).dtype.numpy()
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(var + eps)  # (out,)
        has_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None
        bias = _array(layer.inputs[2]) if has_bias else np.zeros_like(mean)
        new_weight = (weight * _along_output(layer, weight, factor)).astype(dtype)
        new_bias = ((bias - mean) * factor + beta).astype(dtype)  # (out,)
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return "the folded weight is not finite"
    if len(layer.inputs) < 3:
        layer.resize_inputs(3)
    layer.replace_input_with(
        1, add_constant(graph, names.fresh(f"{layer.name}__folded_weight"), new_weight)
    )
    layer.replace_input_with(
        2, add_constant(graph, names.fresh(f"{layer.name}__folded_bias"), new_bias)
    )
    norm.outputs[0].replace_all_uses_with(layer.outputs[0], replace_graph_outputs=True)
    name = norm.outputs[0].name
    shape = norm.outputs[0].shape
    graph.remove(norm, safe=True)
    layer.meta[FOLDED] = (*layer.meta.get(FOLDED, ()), norm.name or "")
    layer.outputs[0].name, layer.outputs[0].shape = name, shape
    return ""


def _constant(value: ir.Value | None) -> ir.TensorProtocol:
    assert value is not None
    assert value.const_value is not None
    return value.const_value


def _array(value: ir.Value | None) -> npt.NDArray[np.float64]:
    return _constant(value).numpy().astype(np.float64)


def _along_output(
    layer: ir.Node, weight: npt.NDArray[np.float64], factor: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Shape the factors (out,) so that they multiply a weight along its output channels."""
    rank = weight.ndim
    if layer.op_type == "Conv":
        return factor.reshape(-1, *[1] * (rank - 1))
    if layer.op_type == "Gemm":
        trans = layer.attributes.get("transB")
        return factor.reshape(-1, 1) if trans is not None and trans.as_int() else factor[None, :]
    group = layer.attributes.get("group")
    groups = group.as_int() if group is not None else 1
    per_group = factor.reshape(groups, 1, -1)  # (groups, 1, out/groups)
    rows = np.broadcast_to(per_group, (groups, weight.shape[0] // groups, weight.shape[1]))
    return rows.reshape(weight.shape[0], weight.shape[1], *[1] * (rank - 2))
