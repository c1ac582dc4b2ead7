"""Write the parameter record: what each layer's input and weight were quantized with.

One entry a layer, in graph order, as protobuf text and as JSON with the same content. Floats are written
with the fewest digits that read back to the same float32.

What AMCT's record has no field for stands in comments, which its readers pass over and ours read back
(`record.extras_write`), so that a model is built again from the float model and its record alone.

Source: AMCT's record; docs/reference/artefacts.md, "record.txt and record.json".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calibrant.plan import ActivationDecision, Plan
from calibrant.plan.parameters import Parameters

__all__ = [
    "EXTRAS_KEY",
    "EXTRAS_MARK",
    "FIELDS",
    "entry_key",
    "record_entries",
    "record_text",
    "said",
]

#: Fields of an entry, in the order of their numbers.
FIELDS = (
    "scale_d",
    "offset_d",
    "scale_w",
    "offset_w",
    "shift_bit",
    "tensor_balance_factor",
    "skip_fusion",
    "dst_type",
    "act_type",
    "wts_type",
    "fakequant_precision_mode",
    "cluster",
    "is_tensor_quantize",
)

#: How a comment begins that holds what the record has no field for; and its key in JSON.
EXTRAS_MARK = "# calibrant: "
EXTRAS_KEY = "#calibrant"


def entry_key(plan: Plan, node: str, index: int) -> str:
    """Return the key of an edge: the layer's name, with the input where it is not the layer's main one.

    An input that is quantized for its own sake (of a MaxPool, an Add) always has its number.
    """
    if all(node != d.node for d in plan.layers):
        return f"{node}:{index}"
    weight = plan.weight_of(node)
    main = index == (0 if weight is None else 1 - weight.input_index)
    return node if main or index == 0 else f"{node}:{index}"


def said(plan: Plan) -> list[tuple[tuple[str, int], ActivationDecision]]:
    """Return the edges that have an entry, with their quantizers, in the order of the entries."""
    by_edge = {edge: d for d in plan.activations for edge in d.users}
    places = {d.node: i for i, d in enumerate(plan.layers)}
    followers = set(plan.followers)
    edges = [e for e in by_edge if e[0] not in followers or e[0] in places]
    edges.sort(key=lambda e: (places.get(e[0], len(places)), e[1] if e[0] in places else 0))
    return [(e, by_edge[e]) for e in edges]


def record_entries(
    plan: Plan,
    params: Parameters,
    *,
    kept: Mapping[str, Mapping[str, Any]] | None = None,
    keep_batch_norm: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return the record as plain values.

    A layer with a weight has `scale_d`, `offset_d`, `scale_w`, `offset_w`, `act_type` and `wts_type`; a
    balanced one has `tensor_balance_factor` besides (its scales are those of the divided input and the
    multiplied weight), and one whose weight keeps a few levels has them as `cluster`. An
    input without a weight beside it (the second operand of a MatMul of two activations, an average pooling)
    stands under `<layer>` for input 0 and `<layer>:<input>` for others. Where each channel of an input has a
    scale of its own, `scale_d` and `offset_d` are lists.

    Args:
        plan: Where quantizers stand.
        params: What they are.
        kept: Fields by key that were read and that nothing here computes: `shift_bit`, `dst_type`,
            `fakequant_precision_mode`.
        keep_batch_norm: Layers whose batch normalization stays.
    """
    weights = {w.layer: w for w in plan.weights}
    entries: dict[str, dict[str, Any]] = {}
    for (node, index), decision in said(plan):
        p = params.activations[decision.id]
        weight = weights.get(node)
        entry: dict[str, Any] = {
            "scale_d": p.scale.tolist(),
            "offset_d": p.zero_point.tolist(),
            "act_type": f"INT{p.dtype.bits}",
        }
        if node in keep_batch_norm:
            entry["skip_fusion"] = True
        if plan.half_scales:
            entry["fakequant_precision_mode"] = "FORCE_FP16_QUANT"
        if weight is not None and index == 1 - weight.input_index:
            w = params.layers[node].weight
            scales = np.atleast_1d(w.scale)
            entry["scale_w"] = [float(s) for s in scales]
            entry["offset_w"] = [0] * scales.size
            entry["wts_type"] = f"INT{w.dtype.bits}"
            if node in params.balance:
                entry["tensor_balance_factor"] = params.balance[node].tolist()
            levels = params.layers[node].levels
            if levels is not None:
                entry["cluster"] = list(levels)
        else:
            entry["is_tensor_quantize"] = True
        key = entry_key(plan, node, index)
        entries[key] = entry | dict((kept or {}).get(key, {}))
    return entries


def record_text(
    entries: Mapping[str, Mapping[str, Any]], extras: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Write entries as protobuf text, and what has no field there as comments of one JSON object each."""
    lines = [EXTRAS_MARK + _compact(extra) for extra in extras]
    for key, entry in entries.items():
        lines += ["record {", f"  key: {_quoted(key)}", "  value {"]
        for field in FIELDS:
            if field in entry:
                values = entry[field] if isinstance(entry[field], list) else [entry[field]]
                lines += [f"    {field}: {_text(v)}" for v in values]
        lines += ["  }", "}"]
    return "\n".join(lines) + "\n"


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float):
        return _float32(np.float32(value))
    return str(value)


def _float32(value: np.float32) -> str:
    return (
        np.format_float_positional(value, unique=True, trim="0")
        if 1e-4 <= abs(float(value)) < 1e16
        else str(value)
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
