"""Write the deployable model: standard ONNX with QuantizeLinear and DequantizeLinear.

Each activation quantizer becomes a pair on its edges; each weight becomes integers with a
DequantizeLinear behind them; a bias becomes int32 with scale `scale_x * scale_w` where it fits. Signed
grids are stored unsigned on targets that want it: the zero point moves by half the grid. 6 and 7 bit
weights are int8 that use fewer values; 4 and 16 bits need opset 21.

Source: ascend.md 15.5 ([OURS]: standard QDQ; the zero point equals the offset).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit._rewire import Names, attach, constant, values_by_name
from calibrant.emit.parameters import LayerParameters, Parameters
from calibrant.numerics import QuantParams
from calibrant.plan import Plan, WeightDecision

__all__ = ["emit_qdq"]

_INT32_MAX = 2**31 - 1


def emit_qdq(model: ir.Model, plan: Plan, params: Parameters) -> ir.Model:
    """Copy a prepared model and put QDQ pairs into the copy.

    Args:
        model: A prepared float model, at opset 21 where the plan needs wide types.
        plan: Where quantizers stand.
        params: What they are.

    Returns:
        A new model; the input is unchanged.
    """
    model = model.clone()
    graph = model.graph
    names = Names(graph)
    values = values_by_name(graph)
    nodes = {node.name or "": node for node in graph}
    for weight in plan.weights:
        _emit_weight(graph, names, nodes[weight.layer], weight, plan, params)
    for decision in reversed(plan.activations):
        p = params.activations[decision.id]

        def build(source: ir.Value, p: QuantParams = p, name: str = decision.id) -> list[ir.Node]:
            return _pair(graph, names, source, p, name, unsigned=plan.target.unsigned)

        attach(graph, values[decision.tensor], decision, build)
    _drop_unused_initializers(graph)
    graph.sort()
    return model


def _storage(
    q: npt.NDArray[np.int32], bits: int, *, unsigned: bool
) -> tuple[npt.NDArray[np.generic], ir.DataType | None]:
    """Convert grid values to the type they are stored in."""
    if bits == 4:
        import ml_dtypes

        return q.astype(ml_dtypes.int4), ir.DataType.INT4
    if bits == 16:
        return (q + 32768).astype(np.uint16) if unsigned else q.astype(np.int16), None
    return (q + 128).astype(np.uint8) if unsigned else q.astype(np.int8), None


def _pair(
    graph: ir.Graph, names: Names, source: ir.Value, p: QuantParams, name: str, *, unsigned: bool
) -> list[ir.Node]:
    zero, _ = _storage(p.zero_point, p.dtype.bits, unsigned=unsigned)
    scale = constant(graph, names.fresh(f"{name}__scale"), p.scale)
    zero_point = constant(graph, names.fresh(f"{name}__zero_point"), zero)
    quantize = ir.Node(
        "", "QuantizeLinear", [source, scale, zero_point], name=names.fresh(f"{name}__quantize")
    )
    quantize.outputs[0].name = names.fresh(f"{name}__quantized")
    dequantize = ir.Node(
        "",
        "DequantizeLinear",
        [quantize.outputs[0], scale, zero_point],
        name=names.fresh(f"{name}__dequantize"),
    )
    dequantize.outputs[0].name = names.fresh(f"{name}__dequantized")
    return [quantize, dequantize]


def _emit_weight(
    graph: ir.Graph, names: Names, node: ir.Node, weight: WeightDecision, plan: Plan, params: Parameters
) -> None:
    chosen = params.layers[weight.layer]
    data, dtype = _storage(chosen.values, chosen.weight.dtype.bits, unsigned=False)
    dequantized = _dequantize(
        graph, names, f"{weight.layer}__weight", data, dtype, chosen.weight.scale, chosen.weight.axis
    )
    node.prepend(dequantized)
    node.replace_input_with(weight.input_index, dequantized.outputs[0])
    _emit_bias(graph, names, node, weight, chosen, _input_scale(node, plan, params))


def _input_scale(node: ir.Node, plan: Plan, params: Parameters) -> npt.NDArray[np.float32] | None:
    for decision in plan.activations:
        if (node.name, 0) in decision.users:
            return params.activations[decision.id].scale
    return None


def _emit_bias(
    graph: ir.Graph,
    names: Names,
    node: ir.Node,
    weight: WeightDecision,
    chosen: LayerParameters,
    input_scale: npt.NDArray[np.float32] | None,
) -> None:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return
    bias = chosen.bias
    if bias is None:
        if weight.bias is None:
            return
        const = graph.initializers[weight.bias].const_value
        assert const is not None
        bias = const.numpy().astype(np.float32)
    scalar_or_channels = bias.ndim == 1 and chosen.weight.scale.shape in ((), bias.shape)
    beta = node.attributes.get("beta")
    one_to_one = beta is None or beta.as_float() == 1.0
    q = None
    if input_scale is not None and input_scale.ndim == 0 and scalar_or_channels and one_to_one:
        scale = np.broadcast_to(input_scale * chosen.weight.scale, bias.shape).astype(np.float32)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            steps = np.rint(bias.astype(np.float64) / scale)
        if np.isfinite(steps).all() and np.abs(steps).max(initial=0) <= _INT32_MAX:
            q = steps.astype(np.int32)
    if q is None:  # the bias stays float: it does not fit 32 bits, or has no scale of its own
        value = constant(graph, names.fresh(f"{weight.layer}__bias"), bias.astype(np.float32))
    else:
        dequantized = _dequantize(graph, names, f"{weight.layer}__bias", q, None, scale, 0)
        node.prepend(dequantized)
        value = dequantized.outputs[0]
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)


def _dequantize(
    graph: ir.Graph,
    names: Names,
    name: str,
    data: npt.NDArray[np.generic],
    dtype: ir.DataType | None,
    scale: npt.NDArray[np.float32],
    axis: int | None,
) -> ir.Node:
    q = constant(graph, names.fresh(f"{name}_quantized"), data, dtype)
    s = constant(graph, names.fresh(f"{name}_scale"), scale)
    zero, _ = (
        (np.zeros(scale.shape, np.int32), None)
        if data.dtype == np.int32
        else _storage(np.zeros(scale.shape, np.int32), 4 if dtype else data.dtype.itemsize * 8, unsigned=False)
    )
    z = constant(graph, names.fresh(f"{name}_zero_point"), zero, dtype)
    attributes = [ir.AttrInt64("axis", axis)] if scale.ndim else []
    node = ir.Node(
        "", "DequantizeLinear", [q, s, z], attributes, name=names.fresh(f"{name}_dequantize")
    )
    node.outputs[0].name = names.fresh(f"{name}_dequantized")
    return node


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
