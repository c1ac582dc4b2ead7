"""The float model with a quantized twin beside each layer: what a layer makes of quantized inputs and weights, alone.

    x ──┬── layer (float) ───────────────── y, read by everything behind it
        └── quantizer ── layer (quantized weight) ── twin of y, read by nobody

So one run shows the error that is born in each layer, with nothing of what arrives from the layers before it.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from calibrant.emit.qdq import pair_values, quantizer_pair
from calibrant.graph.values import Names, add_constant, node_named, values_by_name
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters

__all__ = ["emit_layers_alone"]


def emit_layers_alone(
    model: ir.Model, plan: Plan, params: Parameters, layers: Collection[str]
) -> tuple[ir.Model, dict[str, str]]:
    """Copy a prepared model and put the twins of some layers into the copy.

    Args:
        model: A prepared float model.
        plan: Where quantizers stand.
        params: What they are.
        layers: Layers with quantized weights.

    Returns:
        The new model, and (layer -> name of its twin's output).
    """
    model = model.clone()
    graph = model.graph
    names, values = Names(graph), values_by_name(graph)
    quantizers = {e: d for d in plan.activations for e in d.users}
    quantized: dict[str, ir.Value] = {}
    twins = {}
    for weight in plan.weights:
        if weight.layer not in layers:
            continue
        node = node_named(graph, weight.layer)
        inputs = list(node.inputs)
        new: list[ir.Node] = []
        decision = quantizers.get((weight.layer, 1 - weight.input_index))
        if decision is not None:
            if decision.id not in quantized:
                p = params.activations[decision.id]
                numbers = pair_values(
                    p, unsigned=plan.target.unsigned, folded=decision.folded, compact=True
                )
                put = {
                    k: add_constant(graph, names.fresh(f"{decision.id}__alone_{k}"), v)
                    for k, v in numbers.items()
                }
                name = f"{decision.id}__alone"
                new += quantizer_pair(names, values[decision.tensor], put, name, p.axis)
                quantized[decision.id] = new[-1].outputs[0]
            inputs[1 - weight.input_index] = quantized[decision.id]
        floats = params.layers[weight.layer].floats
        inputs[weight.input_index] = add_constant(
            graph, names.fresh(f"{weight.layer}__alone"), floats
        )
        twin = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            name=names.fresh(f"{weight.layer}__alone"),
        )
        twin.outputs[0].name = names.fresh(f"{weight.layer}__alone_output")
        graph.insert_before(node, [*new, twin])
        twins[weight.layer] = twin.outputs[0].name or ""
    graph.sort()
    return model, twins
