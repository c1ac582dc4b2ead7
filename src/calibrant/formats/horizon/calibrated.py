"""Write the calibrated model: the float model with its calibration nodes, in standard ONNX.

A calibration node is a QuantizeLinear and a DequantizeLinear. One behind an activation is called
`<tensor>__calib`; where the readers of a tensor read it through different ones, `<tensor>__calib__<reader>`, after
the first of its readers. One behind the weight of a layer is called the same way and reads float numbers: the
weight as it was trained where the pair makes the chosen integers of it, and otherwise (learned rounding, few
levels, scales of channels that the weight took over) the floats that these integers stand for. Biases are float.

The node with the name itself is the DequantizeLinear; the QuantizeLinear before it ends in `__quantize`.

Source: docs/reference/artefacts.md, "Files of --format horizon".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit._parts import difference, total
from calibrant.emit.qdq import (
    emit_simulated,
    pair_values,
    quantizer_pair,
    residual_values,
)
from calibrant.graph.values import Names, add_constant, drop_unused_initializers
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.parameters import LayerParameters, Parameters

__all__ = ["CalibrationNames", "calibration_names", "emit_calibrated"]

SUFFIX = "__calib"


@dataclass(frozen=True, slots=True)
class CalibrationNames:
    """What the calibration nodes of a model are called.

    Args:
        activations: Name by quantizer id.
        weights: Name by layer; layers that share a weight and its scales share the node.
    """

    activations: Mapping[str, str]
    weights: Mapping[str, str]


def calibration_names(model: ir.Model, plan: Plan, params: Parameters) -> CalibrationNames:
    """Name every calibration node of a model."""
    names = Names(model.graph)
    of_tensor: dict[str, list[str]] = {}
    for d in plan.activations:
        of_tensor.setdefault(d.tensor, []).append(d.id)
    activations = {}
    for d in plan.activations:
        own = d.tensor + SUFFIX
        # A quantizer that its producer needs stands before the others, so it is the shared one.
        if len(of_tensor[d.tensor]) > 1 and d.producer is None and d.users:
            own += f"__{d.users[0][0]}"
        activations[d.id] = names.fresh(own)
    weights: dict[str, str] = {}
    keys: dict[str, dict[bytes, str]] = {}
    for w in plan.weights:
        keys.setdefault(w.weight, {}).setdefault(_key(params.layers[w.layer]), "")
    for w in plan.weights:
        known, key = keys[w.weight], _key(params.layers[w.layer])
        if not known[key]:
            differ = f"__{w.layer}" if len(known) > 1 else ""
            known[key] = names.fresh(f"{w.weight}{SUFFIX}{differ}")
        weights[w.layer] = known[key]
    return CalibrationNames(activations, weights)


def emit_calibrated(model: ir.Model, plan: Plan, params: Parameters) -> ir.Model:
    """Copy a prepared model and put calibration nodes into the copy.

    Args:
        model: A prepared float model, at opset 21 where the plan needs wide types.
        plan: Where quantizers stand.
        params: What they are.

    Returns:
        A new model; the input is unchanged. It computes what the deployable model computes, but for the
        rounding of biases to int32.
    """
    called = calibration_names(model, plan, params)
    renamed = tuple(replace(d, id=called.activations[d.id]) for d in plan.activations)
    activations = {called.activations[k]: p for k, p in params.activations.items()}
    emitted = emit_simulated(
        model, replace(plan, activations=renamed), replace(params, activations=activations)
    )
    graph = emitted.graph
    names = Names(graph)
    nodes = {node.name or "": node for node in graph}
    done: dict[str, ir.Value] = {}
    for w in plan.weights:
        node, chosen, name = nodes[w.layer], params.layers[w.layer], called.weights[w.layer]
        given = node.inputs[w.input_index]
        assert given is not None
        if name not in done:
            source = _source(model, graph, names, w, chosen, given)
            built = _weight_nodes(graph, names, source, chosen, name)
            graph.insert_before(graph[0], built)
            done[name] = built[-1].outputs[0]
        node.replace_input_with(w.input_index, done[name])
    for node in graph:
        name = (node.name or "").removesuffix("__dequantize")
        if node.op_type == "DequantizeLinear" and name != node.name:
            node.name = name
    drop_unused_initializers(graph)
    return emitted


def _key(chosen: LayerParameters) -> bytes:
    rest = b"" if chosen.residual is None else chosen.residual.tobytes()
    return b"|".join((chosen.weight.scale.tobytes(), chosen.stored.tobytes(), rest))


def _source(
    model: ir.Model,
    graph: ir.Graph,
    names: Names,
    w: WeightDecision,
    chosen: LayerParameters,
    given: ir.Value,
) -> ir.Value:
    """Return the float weight that the pair reads: as it was trained, or what the integers stand for."""
    const = model.graph.initializers[w.weight].const_value
    assert const is not None
    floats = const.numpy()
    if chosen.residual is not None or not _makes(floats, chosen):
        return given
    kept = graph.initializers.get(w.weight)
    return kept if kept is not None else add_constant(graph, w.weight, floats)


def _makes(floats: npt.NDArray[np.generic], chosen: LayerParameters) -> bool:
    """Say whether a pair rounds `floats` to the chosen integers; its type may hold more than the grid."""
    if floats.dtype != np.float32 or floats.shape != chosen.stored.shape:
        return False
    scale = chosen.weight.scale
    if scale.ndim and chosen.weight.axis is not None:
        shape = [1] * floats.ndim
        shape[chosen.weight.axis] = -1
        scale = scale.reshape(shape)
    bits = chosen.weight.dtype.bits
    held = 1 << (bits - 1 if bits in (4, 8, 16) else 7)
    steps = np.clip(np.rint(floats.astype(np.float32) / scale), -held, held - 1)
    return bool((steps == chosen.stored).all())


def _weight_nodes(
    graph: ir.Graph, names: Names, source: ir.Value, chosen: LayerParameters, name: str
) -> list[ir.Node]:
    p = chosen.weight
    numbers = pair_values(p, unsigned=False, folded=False, compact=False)
    if chosen.residual is not None:
        numbers |= residual_values(p, unsigned=False)
    values = {k: add_constant(graph, names.fresh(f"{name}__{k}"), v) for k, v in numbers.items()}
    nodes = quantizer_pair(names, source, values, name, p.axis)
    nodes[-1].outputs[0].shape, nodes[-1].outputs[0].type = source.shape, source.type
    if chosen.residual is not None:
        first = nodes[-1].outputs[0]
        rest = difference(names, source, first, f"{name}__rest")
        second = {k: values[f"residual_{k}"] for k in ("scale", "zero_point")}
        pair = quantizer_pair(names, rest.outputs[0], second, f"{name}__residual", p.axis)
        nodes += [rest, *pair, total(names, first, pair[-1].outputs[0], f"{name}__compensated")]
    return nodes
