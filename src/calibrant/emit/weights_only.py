"""Write the model whose weights are quantized and whose activations are float."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.emit._bias import set_bias
from calibrant.graph.values import Names, add_constant, drop_unused_initializers, values_by_name
from calibrant.plan import Plan
from calibrant.plan.folding import folded_scales
from calibrant.plan.parameters import Parameters

__all__ = ["emit_weights_only"]


def emit_weights_only(model: ir.Model, plan: Plan, params: Parameters) -> ir.Model:
    """Copy a prepared model, with the weights that the integers stand for and the biases that were chosen.

    Where scales of the input's channels are folded into a weight (`plan.folding`), they are divided out
    again, since the input is not quantized here. Nodes keep their order.

    Args:
        model: A prepared float model.
        plan: Where quantizers stand.
        params: What they are; those of activations are read where something is folded.
    """
    model = model.clone()
    graph = model.graph
    names = Names(graph)
    values = values_by_name(graph)
    nodes = {node.name or "": node for node in graph}
    for w in plan.weights:
        node, chosen = nodes[w.layer], params.layers[w.layer]
        floats = chosen.floats
        folded = folded_scales(model, plan, w, params.activations)
        if folded is not None:
            floats = (floats / folded).astype(floats.dtype)
        if chosen.bias is not None:
            bias = add_constant(graph, names.fresh(f"{w.layer}__bias"), chosen.bias)
            set_bias(graph, names, node, bias, values)
        weight = add_constant(graph, names.fresh(f"{w.layer}__weight"), floats)
        node.replace_input_with(w.input_index, weight)
    drop_unused_initializers(graph)
    return model
