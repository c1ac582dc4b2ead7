"""Write the deployable model: standard ONNX with QuantizeLinear and DequantizeLinear.

Each activation quantizer becomes a pair on its edges; each weight becomes integers with a
DequantizeLinear behind them; a bias becomes int32 with scale `scale_x * scale_w` (`plan.biases`). Signed
grids are stored unsigned on targets that want it: the zero point moves by half the grid. 6 and 7 bit
weights are int8 that use fewer values; 4 and 16 bits need opset 21. A weight of 16 levels may be stored as 4-bit
indices, which a Gather turns into int8 when the model is loaded. A compensated operand is two 8-bit values, and an
operator that is linear in it becomes two (`_parts`).

Source: ONNX, QuantizeLinear and DequantizeLinear; docs/explanation/grid.md (the zero point equals a record's offset).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit._apart import keep_apart
from calibrant.emit._bias import add_behind, set_bias
from calibrant.emit._levels import gather_levels
from calibrant.emit._moved import without_effect
from calibrant.emit._parts import difference, split, total
from calibrant.emit._products import matmul_to_gemm
from calibrant.emit._rewire import attach
from calibrant.graph.values import Names, add_constant, drop_unused_initializers, values_by_name
from calibrant.numerics import QuantParams
from calibrant.numerics.compensation import residual_params
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.biases import FinalBias, final_bias
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.plan.products import becomes_gemm

__all__ = [
    "BIAS",
    "WEIGHT",
    "Put",
    "emit_qdq",
    "emit_simulated",
    "emit_with",
    "pair_values",
    "quantizer_pair",
    "residual_values",
]

#: What a weight has been stored as: its name, integers, scale and axis -> inputs of its DequantizeLinear.
Stored = dict[tuple[str, bytes, bytes, int | None], Sequence[ir.Value | None]]

#: Puts a number of a quantizer or a weight into a graph, under a name: whose it is, and which.
Put = Callable[[ir.Graph, str, npt.NDArray[Any], tuple[str, str]], ir.Value]

#: What `Put` is told of a weight and of a bias; of the numbers of a quantizer it is told their key in `pair_values`.
WEIGHT, BIAS = "weight", "bias"


def emit_qdq(model: ir.Model, plan: Plan, params: Parameters) -> ir.Model:
    """Copy a prepared model and put QDQ pairs into the copy: the deployable model.

    Args:
        model: A prepared float model, at opset 21 where the plan needs wide types.
        plan: Where quantizers stand.
        params: What they are.

    Returns:
        A new model; the input is unchanged.
    """
    return _emit(model, plan, params, integers=True, put=_constant)


def emit_simulated(model: ir.Model, plan: Plan, params: Parameters) -> ir.Model:
    """Copy a prepared model, with QDQ pairs on activations and dequantized weights as floats.

    It computes what the deployable model computes, with less work for a runtime that has no integer kernels for
    it; measurements during quantization use it.
    """
    return _emit(model, plan, params, integers=False, put=_constant)


def emit_with(model: ir.Model, plan: Plan, params: Parameters, put: Put) -> ir.Model:
    """Emit the simulated model; `put` decides what becomes of the numbers of quantizers and of weights."""
    return _emit(model, plan, params, integers=False, put=put, compact=False)


def _constant(graph: ir.Graph, name: str, data: npt.NDArray[Any], of: tuple[str, str]) -> ir.Value:
    return add_constant(graph, name, data)


def _emit(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    *,
    integers: bool,
    put: Put,
    compact: bool = True,
) -> ir.Model:
    prepared, model = model, model.clone()
    graph = model.graph
    names = Names(graph)
    values = values_by_name(graph)
    nodes = {node.name or "": node for node in graph}
    if integers:
        for node in [n for n in prepared.graph if becomes_gemm(n, plan)]:
            matmul_to_gemm(graph, nodes[node.name or ""], values)
    stored: Stored = {}
    sums: list[ir.Node] = []
    for weight in plan.weights:
        node, chosen = nodes[weight.layer], params.layers[weight.layer]
        bias = final_bias(prepared, plan, params, weight)
        if bias is not None:
            _emit_bias(graph, names, node, bias, values, None if integers else put)
        _emit_weight(graph, names, node, weight, chosen, stored if integers else None, put, sums)
    left_out = (
        without_effect(model, plan, params)
        if integers and not plan.target.quantize_moved
        else set()
    )
    for decision in reversed(plan.activations):
        if decision.id in left_out:
            continue
        p = params.activations[decision.id]

        def build(
            source: ir.Value,
            p: QuantParams = p,
            name: str = decision.id,
            folded: bool = decision.folded,
            compensation: bool = decision.compensation,
        ) -> list[ir.Node]:
            unsigned = plan.target.stores_unsigned(by_channel=p.axis is not None)
            constants = pair_values(p, unsigned=unsigned, folded=folded, compact=compact)
            constants |= residual_values(p, unsigned=unsigned) if compensation else {}
            put_in = {
                k: put(graph, names.fresh(f"{name}__{k}"), v, (name, k))
                for k, v in constants.items()
            }
            pair = quantizer_pair(names, source, put_in, name, p.axis)
            if compensation:
                pair += _residual(names, source, pair[-1].outputs[0], put_in, name)
                sums.append(pair[-1])
            return pair

        attach(graph, names, values[decision.tensor], decision, build)
    if integers:
        split(graph, names, sums)
    keep_apart(graph, names)
    drop_unused_initializers(graph)
    graph.sort()
    return model


def _stored(q: npt.ArrayLike, bits: int, *, unsigned: bool) -> npt.NDArray[np.generic]:
    """Convert grid values to the type they are stored in."""
    steps = np.asarray(q)
    if bits == 4:
        return steps.astype(ml_dtypes.int4)
    if bits == 16:
        return (steps + 32768).astype(np.uint16) if unsigned else steps.astype(np.int16)
    return (steps + 128).astype(np.uint8) if unsigned else steps.astype(np.int8)


def pair_values(
    p: QuantParams, *, unsigned: bool, folded: bool, compact: bool
) -> dict[str, npt.NDArray[np.generic]]:
    """Return what the two nodes of one quantizer read: scales and zero points as they are stored.

    Where scales are folded, the second node reads at their common one: a number, with the zero point that all
    channels have, where they have one and `compact` allows it, else the same for each channel.
    """
    bits = p.dtype.bits
    found: dict[str, npt.NDArray[np.generic]] = {
        "scale": p.scale,
        "zero_point": _stored(p.zero_point, bits, unsigned=unsigned),
    }
    if folded and compact and (p.zero_point == p.zero_point[0]).all():
        found["common_scale"] = np.asarray(p.common_scale)
        found["common_zero_point"] = found["zero_point"][0]
    elif folded:
        found["common_scale"] = np.full_like(p.scale, p.common_scale)
    return found


def residual_values(p: QuantParams, *, unsigned: bool) -> dict[str, npt.NDArray[np.generic]]:
    """Return what the second pair of a compensated quantizer reads."""
    second = residual_params(p)
    zero_point = _stored(second.zero_point, 8, unsigned=unsigned)
    return {"residual_scale": second.scale, "residual_zero_point": zero_point}


def _residual(
    names: Names, source: ir.Value, first: ir.Value, values: Mapping[str, ir.Value], name: str
) -> list[ir.Node]:
    """Return the nodes that quantize what a first pair leaves of `source`, and add both parts up."""
    rest = difference(names, source, first, f"{name}__rest")
    second = {k: values[f"residual_{k}"] for k in ("scale", "zero_point")}
    pair = quantizer_pair(names, rest.outputs[0], second, f"{name}__residual", None)
    last = total(names, first, pair[-1].outputs[0], f"{name}__compensated")
    return [rest, *pair, last]


def quantizer_pair(
    names: Names,
    source: ir.Value,
    values: Mapping[str, ir.Value],
    name: str,
    axis: int | None,
) -> list[ir.Node]:
    """Return the two nodes of one quantizer, which read what `pair_values` says."""
    along = [ir.AttrInt64("axis", axis)] if axis is not None else []
    quantize = ir.Node(
        "",
        "QuantizeLinear",
        [source, values["scale"], values["zero_point"]],
        along,
        name=names.fresh(f"{name}__quantize"),
    )
    quantize.outputs[0].name = names.fresh(f"{name}__quantized")
    one = "common_zero_point" in values  # one scale and zero point for all channels
    dequantize = ir.Node(
        "",
        "DequantizeLinear",
        [
            quantize.outputs[0],
            values.get("common_scale", values["scale"]),
            values.get("common_zero_point", values["zero_point"]),
        ],
        [] if one or axis is None else [ir.AttrInt64("axis", axis)],
        name=names.fresh(f"{name}__dequantize"),
    )
    dequantize.outputs[0].name = names.fresh(f"{name}__dequantized")
    return [quantize, dequantize]


def _emit_weight(
    graph: ir.Graph,
    names: Names,
    node: ir.Node,
    weight: WeightDecision,
    chosen: LayerParameters,
    stored: Stored | None,
    put: Put,
    sums: list[ir.Node],
) -> None:
    """Put integers in the place of a weight; without `stored`, the floats that they stand for.

    A weight in two parts becomes their Add, which is told to `sums`.
    """
    if stored is None:
        name = names.fresh(f"{weight.layer}__weight")
        value = put(graph, name, chosen.floats, (weight.layer, WEIGHT))
        node.replace_input_with(weight.input_index, value)
        return
    data = _stored(chosen.stored, chosen.weight.dtype.bits, unsigned=False)
    name, scale = f"{weight.layer}__weight", chosen.weight.scale
    dequantized = _dequantize(graph, names, name, data, scale, axis=chosen.weight.axis)
    key = (weight.weight, data.tobytes(), scale.tobytes(), chosen.weight.axis)
    if key not in stored and weight.stores_indices and chosen.levels is not None:
        gathered = gather_levels(graph, names, name, chosen.values, chosen.levels)
        dequantized.replace_input_with(0, gathered[-1].outputs[0])
        node.prepend(gathered)
    # layers that share a weight share its integers
    for index, same in enumerate(stored.setdefault(key, dequantized.inputs)):
        dequantized.replace_input_with(index, same)
    node.prepend(dequantized)
    node.replace_input_with(weight.input_index, dequantized.outputs[0])
    if chosen.residual is not None:
        second = residual_params(chosen.weight)
        part = LayerParameters(second, chosen.residual)
        name = f"{weight.layer}__residual"
        plain = replace(weight, layer=name, weight=f"{weight.weight}__residual")
        _emit_weight(graph, names, node, plain, part, stored, put, sums)
        other = node.inputs[weight.input_index]
        assert other is not None
        both = total(names, dequantized.outputs[0], other, f"{weight.layer}__compensated")
        node.prepend(both)
        node.replace_input_with(weight.input_index, both.outputs[0])
        sums.append(both)


def _emit_bias(
    graph: ir.Graph,
    names: Names,
    node: ir.Node,
    bias: FinalBias,
    values: dict[str, ir.Value],
    put: Put | None,
) -> None:
    """Put the bias of a layer into its place: int32 where it is added in integers, else float.

    With `put` these are floats too, those that the integers stand for; it decides what becomes of them.

    A bias that does not fit 32 bits stands in an Add of its own behind the layer. In the layer's own place it would
    not be left alone: ONNX Runtime's optimizer makes int32 of it, at the product of the scales, without a look at
    what fits.
    """
    name = f"{bias.layer}__bias"
    if bias.steps is not None and put is None:
        steps = bias.steps
        dequantized = _dequantize(graph, names, name, steps.values, steps.scale, axis=0)
        node.prepend(dequantized)
        set_bias(graph, names, node, dequantized.outputs[0], values)
    elif bias.apart and put is None and node.op_type != "MatMul":
        add_behind(graph, names, node, bias.floats, values)
    elif bias.steps is not None or bias.changed:
        put = put or _constant
        value = put(graph, names.fresh(name), bias.floats, (bias.layer, BIAS))
        set_bias(graph, names, node, value, values)


def _dequantize(
    graph: ir.Graph,
    names: Names,
    name: str,
    data: npt.NDArray[np.generic],
    scale: npt.NDArray[np.float32],
    *,
    axis: int | None,
) -> ir.Node:
    q = add_constant(graph, names.fresh(f"{name}_quantized"), data)
    s = add_constant(graph, names.fresh(f"{name}_scale"), scale)
    zero = np.zeros(scale.shape, dtype=data.dtype)
    z = add_constant(graph, names.fresh(f"{name}_zero_point"), zero)
    attributes = [ir.AttrInt64("axis", axis)] if axis is not None else []
    node = ir.Node(
        "", "DequantizeLinear", [q, s, z], attributes, name=names.fresh(f"{name}_dequantize")
    )
    node.outputs[0].name = names.fresh(f"{name}_dequantized")
    return node
