"""Another type at some quantizers of a plan: thresholds stay, scales follow the width."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from calibrant.compat._selectors import Quantizer
from calibrant.errors import ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec, quantize
from calibrant.numerics.compensation import residual
from calibrant.numerics.dtype import IntType
from calibrant.plan import ActivationDecision, LayerDecision, Plan, WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.recipe import Note

__all__ = ["edited", "in_words"]


def edited(
    plan: Plan, params: Parameters, base: ir.Model, selected: list[Quantizer], qtype: str
) -> tuple[Plan, Parameters]:
    """Return plan and parameters with another type at some quantizers.

    Raises:
        ConfigValueError: A reader of a tensor that all read as integers is not selected.
    """
    edges = {(q.node, q.input) for q in selected if q.kind == "activation"}
    layers = {q.node for q in selected if q.kind == "weight"}
    activations: list[ActivationDecision] = []
    scales: dict[str, QuantParams] = {}
    for d in plan.activations:
        for part, changes in _parts(d, edges, {*params.activations, *scales}):
            new, p = _activation(part, params.activations[d.id], qtype if changes else None)
            if new is not None:
                activations.append(new)
                scales[new.id] = p
    kept = [w for w in plan.weights if not (w.layer in layers and qtype == "float32")]
    weights = tuple(_weight(w, qtype) if w.layer in layers else w for w in kept)
    rough = replace(plan, activations=tuple(activations), weights=weights)
    read = {n for d in activations for n, _ in d.users} | {w.layer for w in weights}
    rough = replace(
        rough,
        layers=tuple(_layer(x, x.node in read) for x in plan.layers),
        followers=tuple(f for f in plan.followers if f in read),
        notes=(*plan.notes, Note("set_calib_qtype", in_words(selected, qtype), True)),
    )
    values = {
        w.layer: _values(w, base, rough, scales, params.layers[w.layer], w.layer in layers, qtype)
        for w in weights
    }
    return rough, Parameters(scales, values, params.balance)


def _parts(
    d: ActivationDecision, edges: set[tuple[str, int]], taken: set[str]
) -> list[tuple[ActivationDecision, bool]]:
    """Split a quantizer into the readers that change and those that do not."""
    chosen = tuple(e for e in d.users if e in edges)
    others = tuple(e for e in d.users if e not in edges)
    if not chosen:
        return [(d, False)]
    if not others:
        return [(d, True)]
    if d.producer is not None:
        raise ConfigValueError(
            f"Tensor '{d.tensor}' leaves node '{d.producer}' as integers, so all its readers take one type; "
            f"{', '.join(n for n, _ in others)} are not selected."
        )
    name, n = d.id, 2
    while name in taken:
        name, n = f"{d.tensor}#{n}", n + 1
    return [(replace(d, users=others), False), (replace(d, id=name, users=chosen), True)]


def _activation(
    d: ActivationDecision, p: QuantParams, qtype: str | None
) -> tuple[ActivationDecision | None, QuantParams]:
    if qtype is None:
        return d, p
    if qtype == "float32":
        return None, p
    bits = 16 if qtype == "int16" else 8
    p = _of_width(p, bits, symmetric=not p.zero_point.any())
    spec = replace(d.spec, bits=bits)
    origin = {**d.origin, "activation_bits": "set_calib_qtype"}
    group = f"{d.group}|{bits}|{d.id}"
    return replace(d, spec=spec, origin=origin, group=group, compensation=qtype == "ec"), p


def _of_width(p: QuantParams, bits: int, *, symmetric: bool) -> QuantParams:
    """Return a grid of another width over the same range."""
    if bits == p.dtype.bits:
        return p
    dtype = IntType(bits, p.dtype.narrow)
    if symmetric:
        scale = (p.scale * np.float32(2.0 ** (p.dtype.bits - bits))).astype(np.float32)
        return QuantParams(scale, np.zeros(scale.shape, np.int32), dtype, p.axis)
    spec = QuantSpec(bits=bits, axis=p.axis)
    low, high = p.range
    return QuantParams.from_range(low, high, spec)


def _weight(w: WeightDecision, qtype: str) -> WeightDecision:
    bits = 16 if qtype == "int16" else 8
    origin = {**w.origin, "weight_bits": "set_calib_qtype"}
    return replace(w, spec=replace(w.spec, bits=bits), origin=origin, compensation=qtype == "ec")


def _values(
    w: WeightDecision,
    base: ir.Model,
    plan: Plan,
    scales: dict[str, QuantParams],
    layer: LayerParameters,
    changes: bool,
    qtype: str,
) -> LayerParameters:
    """Round a weight again where its type changes; its corrected bias stays."""
    if not changes:
        return layer
    floats = float_weight(base, plan, w, scales)
    p = _of_width(layer.weight, w.spec.bits, symmetric=True)
    same = p.dtype == layer.weight.dtype
    values = layer.values if same else quantize(floats, p)
    rest = residual(floats, values, p) if qtype == "ec" else None
    levels = layer.levels if same else None
    return replace(layer, weight=p, values=values, levels=levels, residual=rest)


def _layer(layer: LayerDecision, quantized: bool) -> LayerDecision:
    if quantized or not layer.quantized:
        return layer
    return replace(layer, quantized=False, reason="float32 asked for by set_calib_qtype")


def in_words(selected: list[Quantizer], qtype: str) -> str:
    """Say what was changed."""
    names = list(dict.fromkeys(f"'{q.node}' input {q.input}" for q in selected))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{qtype} without calibrating again: {', '.join(names[:5])}{more}."
