"""Give quantizers of a quantized model another type, without calibrating again.

The range stays; the scale follows the width:

    symmetric     s' = s * 2**(a-1) / 2**(b-1)                           from a to b bits
    asymmetric    the range that the old grid covers, on the new grid

A symmetric grid of 16 bits then holds every point of that of 8, its lowest too, which T / (2**15 - 1) would clip
(the lowest weight of a channel stands there). So one sees what 16 bits at one operand would bring before asking for them.

Source: horizon.md 6.2 (`set_calib_qtype`), 1.4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from calibrant.compat._selectors import (
    Quantizer,
    Selector,
    check_places,
    quantizers_of,
    selected_by,
)
from calibrant.emit.fake_quant import emit_fake_quant
from calibrant.emit.qdq import emit_qdq
from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.record.recording import Recording
from calibrant.results import NOT_FOR_ACCURACY, QuantizedModel, compensation_of
from calibrant.retype import edited, in_words
from calibrant.save.size import file_bytes

__all__ = ["QTYPES", "Quantizer", "Selector", "set_calib_qtype"]

QTYPES = ("int8", "int16", "ec", "float32")


def set_calib_qtype(quantized: QuantizedModel, selector: Selector, qtype: str) -> QuantizedModel:
    """Return the model with another type at some quantizers.

    Args:
        quantized: A result of `calibrant.quantize`; it is not changed.
        selector: Which quantizers: the name of a node, a type of operator (`Conv`), `weight`, `activation`, a
            pair (node, input), a function of a `Quantizer`, or a list of these.
        qtype: `int8`, `int16`, `ec` (8 bits and a second value for the rest), or `float32`.

    Returns:
        A new result with both models; nothing of it was measured.

    Raises:
        ConfigValueError: An unknown type, nothing selected, `ec` where there is no place for it, or one
            reader of a tensor that all read as integers.
        ConfigTypeError: A selector of another form.
    """
    if qtype not in QTYPES:
        raise ConfigValueError(
            f"qtype is {qtype!r}; it is one of {', '.join(QTYPES)}.{did_you_mean(str(qtype), QTYPES)}"
        )
    base = quantized.float_model
    if base is None:
        raise ConfigValueError(
            "This result does not hold its float model; set_calib_qtype takes what calibrant.quantize returned."
        )
    nodes = {n.name or "": n for n in base.graph}
    selected = selected_by(selector, quantizers_of(quantized.plan, nodes), nodes)
    if qtype == "ec":
        check_places(selected)
    plan, params = edited(quantized.plan, quantized.params, base, selected, qtype)
    if plan.needs_wide_types and main_opset(base) < WIDE_OPSET:
        base = raise_opset(base.clone(), WIDE_OPSET)
    deploy, fake_quant = emit_qdq(base, plan, params), emit_fake_quant(base, plan, params)
    for model, old in ((deploy, quantized.deploy), (fake_quant, quantized.fake_quant)):
        model.metadata_props.update(old.metadata_props)
    changed = replace(
        quantized,
        deploy=deploy,
        fake_quant=fake_quant,
        params=params,
        plan=plan,
        record=Recording.of(base, quantized.form, plan, params, _kept(quantized.record)),
        float_model=base,
        choices=(),
    )
    return replace(changed, summary=_summary(changed, selected, qtype))


def _kept(record: Recording) -> dict[str, dict[str, Any]]:
    """Return the fields of a record that no width changes and that nothing here computes."""
    return {
        key: {"shift_bit": entry["shift_bit"]}
        for key, entry in record.entries.items()
        if "shift_bit" in entry
    }


def _summary(result: QuantizedModel, selected: list[Quantizer], qtype: str) -> dict[str, Any]:
    """Return the summary without what was measured of the old model."""
    old, plan = result.summary, result.plan
    if not old:
        return old
    notes = [
        *old["notes"],
        {"where": "set_calib_qtype", "message": in_words(selected, qtype), "honoured": True},
    ]
    layers = {
        **old["layers"],
        "quantized": sum(d.quantized for d in plan.layers),
        "float": [
            {"layer": d.node, "op_type": d.op_type, "reason": d.reason}
            for d in plan.layers
            if not d.quantized
        ],
    }
    quality = {"samples": 0, "outputs": {}, "not_compared": []}
    deploy_bytes = file_bytes(result.deploy)
    float_bytes = old["size"]["float_bytes"]
    size = {
        **old["size"],
        "deploy_bytes": deploy_bytes,
        "ratio": deploy_bytes / max(1, float_bytes),
    }
    return {
        **old,
        "quality": quality,
        "latency": None,
        "nodes": [],
        "distances": [],
        "layers": layers,
        "size": size,
        "compensation": compensation_of(result),
        "notes": notes,
        "warnings": [w for w in old["warnings"] if w == NOT_FOR_ACCURACY],
    }
