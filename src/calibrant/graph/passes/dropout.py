"""Take dropouts out of a model: at inference they hand their input on."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.ops import is_constant

__all__ = ["pass_dropouts"]


def pass_dropouts(model: ir.Model) -> None:
    """Make an Identity of every Dropout that changes nothing, in place, bodies included.

    One stays as it is where somebody reads its mask, or where its training mode is on or is computed.
    """
    for graph in model.graphs():
        for node in graph:
            if node.op_type == "Dropout" and node.domain in ("", "ai.onnx") and _is_inert(node):
                node.op_type = "Identity"
                node.attributes.clear()
                node.resize_inputs(1)
                node.resize_outputs(1)


def _is_inert(node: ir.Node) -> bool:
    if node.inputs[0] is None:
        return False
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return True
    return (
        is_constant(mode) and mode.const_value is not None and not mode.const_value.numpy().any()
    )
