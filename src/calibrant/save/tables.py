"""Tables of a result: what holds for each tensor and layer, and what a search node by node found."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from calibrant.findings import NodeChoice
from calibrant.plan import ActivationDecision, Plan
from calibrant.plan.parameters import Parameters

__all__ = ["choices_table", "plan_table"]


def choices_table(choices: Sequence[NodeChoice]) -> str:
    """Return a search node by node as CSV; no number where all candidates of a node are equal."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["node", "op", "candidate", "metric", "chosen"])
    for c in choices:
        score = "" if c.score is None else repr(c.score)
        table.writerow([c.node, c.op_type, c.candidate, score, str(c.chosen).lower()])
    return text.getvalue()


def plan_table(plan: Plan, params: Parameters) -> dict[str, Any]:
    """Return every tensor with its type, algorithm, parameters and the rule that decided."""
    tensors: list[dict[str, Any]] = []
    for d in plan.activations:
        p = params.activations[d.id]
        low, high = (end.tolist() for end in p.range)
        tensors.append(
            {
                "tensor": d.tensor,
                "role": "activation",
                "type": _storage_name(d, plan),
                "algorithm": "fixed range" if d.fixed_range else str(d.algorithm),
                "symmetric": d.spec.symmetric,
                "axis": p.axis,
                "scale": p.scale.tolist(),
                "zero_point": p.zero_point.tolist(),
                "range": [low, high],
                "folded_into_weights": d.folded,
                "compensated": d.compensation,
                "readers": [f"{node}:{index}" for node, index in d.users],
                "integer_output_of": d.producer,
                "rule": _rule(d),
            }
        )
    for w in plan.weights:
        layer = params.layers[w.layer]
        tensors.append(
            {
                "tensor": w.weight,
                "role": "weight",
                "type": f"int{w.spec.bits}",
                "algorithm": str(w.algorithm),
                "axis": layer.weight.axis,
                "levels": list(layer.levels) if layer.levels is not None else None,
                "scale": [float(s) for s in np.atleast_1d(layer.weight.scale)],
                "zero_point": 0,
                "compensated": w.compensation,
                "readers": [f"{w.layer}:{w.input_index}"],
                "bias_corrected": layer.bias is not None,
                "rule": dict(w.origin) or "default",
            }
        )
    return {
        "target": plan.target.name,
        "tensors": tensors,
        "layers": [
            {
                "layer": d.node,
                "op_type": d.op_type,
                "quantized": d.quantized,
                "reason": d.reason,
                "settings": {
                    k: v if isinstance(v, (int, float)) else str(v) for k, v in d.settings.items()
                },
                "rule": dict(d.origin) or "default",
            }
            for d in plan.layers
        ],
        "kept_in_integers": list(plan.followers),
        "notes": [asdict(n) for n in plan.notes],
    }


def _storage_name(decision: ActivationDecision, plan: Plan) -> str:
    unsigned = plan.target.stores_unsigned(by_channel=decision.spec.axis is not None)
    return f"{'u' if unsigned else ''}int{decision.spec.bits}"


def _rule(decision: ActivationDecision) -> Any:
    if decision.fixed_range is not None:
        return "the operator before it has this range by definition"
    return dict(decision.origin) or "default"
