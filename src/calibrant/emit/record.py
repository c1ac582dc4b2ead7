"""Write the parameter record: what each layer's input and weight were quantized with.

One entry a layer, in graph order, as protobuf text and as JSON with the same content. Floats are written
with the fewest digits that read back to the same float32.

Source: ascend.md 15.3 (fields, ranges, text form).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calibrant.emit.parameters import Parameters
from calibrant.plan import Plan

__all__ = ["record_entries", "record_text"]


#: Fields of an entry, in the order in which they are written.
_FIELDS = (
    "scale_d",
    "offset_d",
    "scale_w",
    "offset_w",
    "tensor_balance_factor",
    "act_type",
    "wts_type",
    "cluster",
)


def record_entries(plan: Plan, params: Parameters) -> dict[str, dict[str, Any]]:
    """Return the record as plain values.

    A layer with a weight has `scale_d`, `offset_d`, `scale_w`, `offset_w`, `act_type` and `wts_type`; a
    balanced one has `tensor_balance_factor` besides (its scales are those of the divided input and the
    multiplied weight), and one whose weight keeps a few levels has them as `cluster`. An
    input without a weight beside it (the second operand of a MatMul of two activations, an average pooling)
    stands under `<layer>` for input 0 and `<layer>:<input>` for others. Where each channel of an input has a
    scale of its own, `scale_d` and `offset_d` are lists.
    """
    weights = {w.layer: w for w in plan.weights}
    entries: dict[str, dict[str, Any]] = {}
    by_edge = {edge: d for d in plan.activations for edge in d.users}
    for layer in plan.layers:
        for (node, index), decision in sorted(
            (item for item in by_edge.items() if item[0][0] == layer.node), key=lambda i: i[0][1]
        ):
            p = params.activations[decision.id]
            weight = weights.get(node)
            main = weight is None or index == 1 - weight.input_index
            key = node if index == 0 or (weight is not None and main) else f"{node}:{index}"
            entry: dict[str, Any] = {
                "scale_d": p.scale.tolist(),
                "offset_d": p.zero_point.tolist(),
                "act_type": f"INT{p.dtype.bits}",
            }
            if weight is not None and main:
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
            entries[key] = entry
    return entries


def record_text(entries: dict[str, dict[str, Any]]) -> str:
    """Write entries as protobuf text."""
    lines: list[str] = []
    for key, entry in entries.items():
        lines += ["record {", f"  key: {_quoted(key)}", "  value {"]
        for field in _FIELDS:
            if field in entry:
                values = entry[field] if isinstance(entry[field], list) else [entry[field]]
                lines += [f"    {field}: {_text(v)}" for v in values]
        if entry.get("is_tensor_quantize"):
            lines.append("    is_tensor_quantize: true")
        lines += ["  }", "}"]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
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
