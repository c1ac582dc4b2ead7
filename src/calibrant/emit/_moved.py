"""Quantizers that change nothing: behind an operator that only moves what a quantizer with the same numbers wrote.

    x ── Q, DQ (s, z) ── MaxPool ──[Q, DQ (s, z)]── Conv         the second pair gives back what it reads

A target may want them left out (`quantize_moved`). The plan and the record keep them: they say at which scale a layer
reads its input.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from calibrant.graph.ops import is_constant, rule_of
from calibrant.numerics import QuantParams
from calibrant.plan import ActivationDecision, Plan
from calibrant.plan.parameters import Parameters

__all__ = ["without_effect"]

#: Ways to compute a Resize that make new values between the old ones.
_BETWEEN = frozenset({"linear", "cubic"})


def without_effect(model: ir.Model, plan: Plan, params: Parameters) -> set[str]:
    """Return the ids of quantizers whose tensor has their values already.

    Args:
        model: The prepared model that the plan belongs to.
        plan: Where quantizers stand.
        params: What they are.
    """
    by_edge = {edge: d for d in plan.activations for edge in d.users}
    values = {v.name: v for node in model.graph for v in node.outputs}
    moves = {n.name or "": n for n in model.graph if n.op_type in plan.target.shared and _moves(n)}

    def on_grid(value: ir.Value | None, p: QuantParams) -> bool:
        node = value.producer() if value is not None else None
        if node is None or node.name not in moves:
            return False
        sources = node.inputs if rule_of(node).data is None else node.inputs[:1]
        for index, source in enumerate(sources):
            if is_constant(source):
                return False
            reads = by_edge.get((node.name or "", index))
            if reads is None and on_grid(source, p):
                continue
            if reads is None or not _same(reads, params.activations, p):
                return False
        return True

    return {
        d.id
        for d in plan.activations
        if d.producer is None
        and _plain(d)
        and on_grid(values.get(d.tensor), params.activations[d.id])
    }


def _plain(d: ActivationDecision) -> bool:
    return d.spec.axis is None and not d.folded and not d.compensation


def _same(d: ActivationDecision, params: Mapping[str, QuantParams], p: QuantParams) -> bool:
    q = params[d.id]
    equal = np.array_equal(p.scale, q.scale) and np.array_equal(p.zero_point, q.zero_point)
    return _plain(d) and p.dtype == q.dtype and equal


def _moves(node: ir.Node) -> bool:
    """Say whether every value that a node writes is one that it reads, or zero."""
    mode = node.attributes.get("mode")
    said = mode.as_string() if mode is not None else ""
    if node.op_type == "Resize":
        return said == "nearest" or not said
    if node.op_type == "Pad" and said in ("", "constant"):
        filling = node.inputs[2] if len(node.inputs) > 2 else None
        const = filling.const_value if filling is not None else None
        return filling is None or (const is not None and not const.numpy().any())
    return rule_of(node).kind != "pool"
