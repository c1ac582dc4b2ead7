"""Write the fake-quant model: float arithmetic that says what quantization means.

Every quantizer is a call of the model-local function `calibrant.FakeQuantize(x, scale, zero_point)`, so the
scales stand in the graph where a reader looks for them, and any runtime that inlines functions runs it:

    y = (clip(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale

Where scales by channel are folded into the weights behind them (`plan.granularity`), a Mul by common scale /
scale of the channel stands between. A compensated operand is the Add of two calls, in front of its operator.

Run it with graph optimisation off for the arithmetic as written. Comparing it with the QDQ model separates
quantization loss from kernel differences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit._bias import set_bias
from calibrant.emit._parts import difference, total
from calibrant.emit._rewire import attach
from calibrant.graph.opset import main_opset
from calibrant.graph.values import Names, add_constant, drop_unused_initializers, values_by_name
from calibrant.numerics import QuantParams, dequantize
from calibrant.numerics.compensation import residual_params
from calibrant.plan import Plan
from calibrant.plan.biases import final_bias
from calibrant.plan.parameters import Parameters

__all__ = ["DOMAIN", "FUNCTION", "emit_fake_quant"]

DOMAIN = "calibrant"
FUNCTION = "FakeQuantize"


def emit_fake_quant(model: ir.Model, plan: Plan, params: Parameters) -> ir.Model:
    """Copy a prepared model and put a function call at every quantizer, weights included.

    Weights hold the values that the integers stand for, so their quantizers change nothing; they show the
    scales. So are biases that the deployable model adds in integers.
    """
    prepared, model = model, model.clone()
    graph = model.graph
    names = Names(graph)
    values = values_by_name(graph)
    nodes = {node.name or "": node for node in graph}
    for weight in plan.weights:
        node, chosen = nodes[weight.layer], params.layers[weight.layer]
        data = add_constant(
            graph, names.fresh(f"{weight.layer}__weight"), dequantize(chosen.stored, chosen.weight)
        )
        call = _call(graph, names, data, chosen.weight, f"{weight.layer}__weight", data.shape)
        if chosen.residual is not None:
            second, name = residual_params(chosen.weight), f"{weight.layer}__residual"
            rest = add_constant(graph, names.fresh(name), dequantize(chosen.residual, second))
            calls = _call(graph, names, rest, second, name, rest.shape)
            both = total(names, call[-1].outputs[0], calls[-1].outputs[0], f"{name}__both")
            call = [*call, *calls, both]
        node.prepend(call)
        bias = final_bias(prepared, plan, params, weight)
        if bias is not None and (bias.steps is not None or bias.changed):
            constant = add_constant(graph, names.fresh(f"{weight.layer}__bias"), bias.floats)
            set_bias(graph, names, node, constant, values)
        node.replace_input_with(weight.input_index, call[-1].outputs[0])
    for decision in reversed(plan.activations):
        source = values[decision.tensor]
        p = params.activations[decision.id]

        def build(
            v: ir.Value,
            p: QuantParams = p,
            name: str = decision.id,
            folded: bool = decision.folded,
            compensation: bool = decision.compensation,
        ) -> Sequence[ir.Node]:
            call = _call(graph, names, v, p, name, v.shape)
            if compensation:
                first = call[-1].outputs[0]
                rest = difference(names, v, first, f"{name}__rest")
                second, tail = residual_params(p), f"{name}__residual"
                calls = _call(graph, names, rest.outputs[0], second, tail, v.shape)
                both = total(names, first, calls[-1].outputs[0], f"{name}__compensated")
                return [*call, rest, *calls, both]
            return (
                [*call, _at_one_scale(graph, names, call[-1].outputs[0], p, name)]
                if folded
                else call
            )

        attach(graph, names, source, decision, build)
    drop_unused_initializers(graph)
    graph.sort()
    function = _function(main_opset(model))
    model.functions[function.identifier()] = function
    graph.opset_imports[DOMAIN] = 1
    return model


def _call(
    graph: ir.Graph,
    names: Names,
    source: ir.Value,
    p: QuantParams,
    name: str,
    shape: ir.Shape | None,
) -> list[ir.Node]:
    """Return the call of one quantizer; per-channel values are shaped to broadcast along their axis."""
    scale = _along(p.scale, p, shape)
    zero = _along(p.zero_point.astype(np.float32), p, shape)
    inputs = [
        source,
        add_constant(graph, names.fresh(f"{name}__scale"), scale),
        add_constant(graph, names.fresh(f"{name}__zero_point"), zero),
    ]
    bounds = [
        ir.AttrFloat32("qmin", float(p.dtype.qmin)),
        ir.AttrFloat32("qmax", float(p.dtype.qmax)),
    ]
    node = ir.Node(DOMAIN, FUNCTION, inputs, bounds, name=names.fresh(f"{name}__fake_quantize"))
    node.outputs[0].name = names.fresh(f"{name}__fake_quantized")
    node.outputs[0].shape, node.outputs[0].type = source.shape, source.type
    return [node]


def _along(
    values: npt.NDArray[np.float32], p: QuantParams, shape: ir.Shape | None
) -> npt.NDArray[np.float32]:
    if not values.ndim or p.axis is None:
        return values
    assert shape is not None
    broadcast = [1] * len(shape)
    broadcast[p.axis] = -1
    return values.reshape(broadcast)


def _at_one_scale(
    graph: ir.Graph, names: Names, source: ir.Value, p: QuantParams, name: str
) -> ir.Node:
    """Return the Mul that brings every channel to the common scale, as readers with folded weights take it."""
    factors = _along((p.common_scale / p.scale).astype(np.float32), p, source.shape)
    constant = add_constant(graph, names.fresh(f"{name}__to_common_scale"), factors)
    node = ir.Node("", "Mul", [source, constant], name=names.fresh(f"{name}__at_common_scale"))
    node.outputs[0].name = names.fresh(f"{name}__at_common_scale")
    node.outputs[0].shape, node.outputs[0].type = source.shape, source.type
    return node


def _function(opset: int) -> ir.Function:
    x, scale, zero = (ir.Value(name=n) for n in ("x", "scale", "zero_point"))
    nodes: list[ir.Node] = []

    def op(op_type: str, inputs: Sequence[ir.Value], out: str, **refs: str) -> ir.Value:
        attributes = [
            ir.RefAttr(name, target, ir.AttributeType.FLOAT) for name, target in refs.items()
        ]
        node = ir.Node("", op_type, inputs, attributes)
        node.outputs[0].name = out
        nodes.append(node)
        return node.outputs[0]

    steps = op("Round", [op("Div", [x, scale], "scaled")], "rounded")
    shifted = op("Add", [steps, zero], "shifted")
    low = op("Constant", [], "low", value_float="qmin")
    high = op("Constant", [], "high", value_float="qmax")
    q = op("Min", [op("Max", [shifted, low], "above"), high], "q")
    op("Mul", [op("Sub", [q, zero], "centred"), scale], "y")
    graph = ir.Graph(
        [x, scale, zero],
        [nodes[-1].outputs[0]],
        nodes=nodes,
        opset_imports={"": opset},
        name=FUNCTION,
    )
    return ir.Function(
        DOMAIN,
        FUNCTION,
        graph=graph,
        attributes=[
            ir.Attr("qmin", ir.AttributeType.FLOAT, None),
            ir.Attr("qmax", ir.AttributeType.FLOAT, None),
        ],
    )
