"""Say which nodes of the Ascend graphs stand for which layer: the quant-info file.

Source: docs/reference/artefacts.md, "Files of --format ascend" (every key).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from calibrant.formats.ascend.parts import AscendGraph, quantized_edges
from calibrant.graph.ops import bias_of
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters

__all__ = ["ascend_info"]


def ascend_info(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    graphs: Sequence[AscendGraph],
    folded: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return the quant-info file as plain values.

    One entry for each quantized input. `fused_from` lists the operators of the original model that the layer
    computes, itself first: batch normalizations that were folded into it, the Add that is its bias.
    `quant_nodes` and `dequant_nodes` list those of all graphs, in their order. A node with several quantized
    inputs has an entry for each, told apart by `input`.

    Args:
        model: The prepared float model.
        plan: Where quantizers stand.
        params: What they are.
        graphs: The graphs that were written.
        folded: Layer -> batch normalizations that are folded into it.
    """
    nodes = {node.name or "": node for node in model.graph}
    weights = {(w.layer, 1 - w.input_index): w for w in plan.weights}
    layers: list[dict[str, Any]] = []
    for (name, index), d in quantized_edges(plan):
        p = params.activations[d.id]
        w = weights.get((name, index))
        bias = bias_of(nodes[name]) if w is not None else None
        fused = [name, *folded.get(name, ())]
        if bias is not None and bias[0].name != name:
            fused.append(bias[0].name or "")
        edge = (name, index)
        layers.append(
            {
                "name": name,
                "type": nodes[name].op_type,
                "input": index,
                "fused_from": fused,
                "quant_nodes": [n for g in graphs for n in g.quantizers.get(edge, ())],
                "dequant_nodes": [n for g in graphs for n in g.dequantizers.get(edge, ())],
                "scale_d": float(p.scale),
                "offset_d": int(p.zero_point),
                "act_bits": p.dtype.bits,
                "wts_bits": params.layers[name].weight.dtype.bits if w is not None else None,
                "channel_wise": w is not None and params.layers[name].weight.axis is not None,
            }
        )
    order = {name: i for i, name in enumerate(nodes)}
    layers.sort(key=lambda x: (order[x["name"]], x["input"]))
    return {"version": 1, "layers": layers}
