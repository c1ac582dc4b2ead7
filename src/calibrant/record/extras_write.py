"""What a record has no field for, and a model is built from all the same.

One plain mapping each, with one key:

    target       name of the device profile; all of it where it is none of calibrant's own
    tiny_scales  one where a scale below 2**-23 became 1
    fixed        inputs that became constants, with their values; whether the written models keep them
    fold         false where no batch normalization was folded; or the layers whose stayed
    half         nodes that compute in float16
    half_later   nodes that do because they were raised
    saturates    those of them with values beyond its range, and how many
    calibration  a word on ranges that mean nothing
    outputs      float16 where the outputs were rounded through it
    equalized    tensor, factors                       channels that were rescaled between layers
    balanced     tensor, layers, asked                 several layers behind one Mul (its factors: the entries)
    quantizer    id, tensor, users, producer, …        one that entries do not say, or not all of
    weight       layer, storage                        how a weight is stored
    compensated  layer                                 a weight with a second 8-bit value beside the first
    rounding     layer, up, down                       weights that are not rounded to nearest
    bias         layer, values                         a corrected bias

Floats are written with the fewest digits that read back to the same value.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph import targets
from calibrant.graph.form import ModelForm
from calibrant.graph.passes.fix_inputs import fixed_values, kept_inputs
from calibrant.graph.targets import Target
from calibrant.numerics import quantize
from calibrant.numerics.levels import nearest_level
from calibrant.plan import ActivationDecision, Plan
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import Parameters
from calibrant.record.entries import entry_key, said

__all__ = ["positions", "record_extras", "shortest"]


def record_extras(
    model: ir.Model, form: ModelForm, plan: Plan, params: Parameters
) -> list[dict[str, Any]]:
    """Return what the entries of a record leave out.

    Args:
        model: The float model that the plan belongs to.
        form: What was done to it.
        plan: Where quantizers stand.
        params: What they are.
    """
    return [
        {"target": _target(plan.target)},
        *([{"tiny_scales": "one"}] if plan.tiny_to_one else []),
        *_of_inputs(model),
        *_of_form(form),
        *_of_quantizers(plan, params),
        *_of_weights(model, plan, params),
    ]


def _target(target: Target) -> str | dict[str, Any]:
    return target.name if target.name in targets.builtin() else targets.to_mapping(target)


def _of_inputs(model: ir.Model) -> Iterator[dict[str, Any]]:
    values = fixed_values(model)
    if values:
        kept = {"kept": True} if kept_inputs(model) else {}
        yield {"fixed": {"inputs": values, **kept}}


def _of_form(form: ModelForm) -> Iterator[dict[str, Any]]:
    if not form.fold:
        yield {"fold": False}
    elif form.keep_batch_norm:
        yield {"fold": list(form.keep_batch_norm)}
    if form.half:
        yield {"half": list(form.half)}
    if form.overflows:
        yield {"saturates": dict(form.overflows)}
    if form.half_later:
        yield {"half_later": list(form.half_later)}
    if form.half_outputs:
        yield {"outputs": "float16"}
    for e in form.equalized:
        yield {"equalized": {"tensor": e.tensor, "factors": list(e.factors)}}
    for b in form.balanced:
        yield {"balanced": {"tensor": b.tensor, "layers": list(b.layers), "asked": b.asked}}


def _of_quantizers(plan: Plan, params: Parameters) -> Iterator[dict[str, Any]]:
    entries = {edge for edge, _ in said(plan)}
    for d in plan.activations:
        told = [e for e in d.users if e in entries]
        plain = d.producer is None and d.spec.axis is None and not d.compensation
        if plain and len(told) == len(d.users):
            continue
        yield {"quantizer": _quantizer(d, params, plan, told)}


def _quantizer(
    d: ActivationDecision, params: Parameters, plan: Plan, told: list[tuple[str, int]]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": d.id,
        "tensor": d.tensor,
        "users": [list(e) for e in d.users],
        "producer": d.producer,
    }
    if d.spec.axis is not None:
        found |= {"axis": d.spec.axis, "folded": d.folded}
    if d.compensation:
        found["compensation"] = True
    if told:  # the numbers of these entries, which may be changed there, go before those here
        found["entries"] = {entry_key(plan, *e): list(e) for e in told}
    p = params.activations[d.id]
    return found | {
        "bits": p.dtype.bits,
        "scale": shortest(p.scale),
        "zero_point": p.zero_point.tolist(),
    }


def _of_weights(model: ir.Model, plan: Plan, params: Parameters) -> Iterator[dict[str, Any]]:
    for w in plan.weights:
        layer = params.layers[w.layer]
        if w.stores_indices:
            yield {"weight": {"layer": w.layer, "storage": "indices"}}
        if w.compensation:
            yield {"compensated": {"layer": w.layer}}
        nearest = quantize(float_weight(model, plan, w, params.activations), layer.weight)
        if layer.levels is not None:
            nearest = nearest_level(nearest, layer.levels)
        change = layer.values - nearest
        if change.any():
            yield {
                "rounding": {
                    "layer": w.layer,
                    "up": positions(change > 0),
                    "down": positions(change < 0),
                }
            }
        if layer.bias is not None:
            yield {"bias": {"layer": w.layer, "values": shortest(layer.bias)}}


def positions(mask: npt.NDArray[np.bool_]) -> str:
    """Return a mask as text: bits of the array in C order, packed, deflated, in base 64."""
    return base64.b64encode(zlib.compress(np.packbits(mask.reshape(-1)).tobytes(), 9)).decode()


def shortest(x: npt.NDArray[np.float32]) -> Any:
    """Return float32 values as the shortest decimals that read back to them."""
    if x.ndim == 0:
        return float(str(np.float32(x)))
    return [float(str(v)) for v in x.reshape(-1)]
