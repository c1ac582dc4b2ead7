"""Give quantizers of a solution another type, without calibrating again.

The range stays; the scale follows the width:

    symmetric     s' = s * 2**(a-1) / 2**(b-1)                           from a to b bits
    asymmetric    the range that the old grid covers, on the new grid

A symmetric grid of 16 bits then holds every point of that of 8, its lowest too, which T / (2**15 - 1) would clip.
Where an input that folds its channels' scales into a weight becomes float, that weight is rounded again without
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrant import algorithms
from calibrant.errors import ConfigValueError
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.numerics import QuantParams, QuantSpec, quantize
from calibrant.numerics.compensation import residual
from calibrant.numerics.dtype import IntType
from calibrant.plan import ActivationDecision, LayerDecision, Plan, WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.recipe import Note
from calibrant.record.recording import Recording
from calibrant.solution import Solution

__all__ = ["QTYPES", "Quantizer", "quantizers_of", "retyped"]

QTYPES = ("int8", "int16", "ec", "float32")


@dataclass(frozen=True, slots=True)
class Quantizer:
    """One input of one node, that is quantized.

    Args:
        node: Its name.
        op_type: Its operator.
        input: Which input.
        kind: `weight` or `activation`.
        qtype: What it is: `int8`, `int16`, `ec`, …
    """

    node: str
    op_type: str
    input: int
    kind: str
    qtype: str


def retyped(solution: Solution, selected: list[Quantizer], qtype: str) -> Solution:
    """Return a solution with another type at some quantizers; the old one is not changed.

    Args:
        solution: What was decided.
        selected: Quantizers of it.
        qtype: One of `QTYPES`.

    Raises:
        ConfigValueError: A reader of a tensor that all read as integers is not selected, or `ec` where each
            channel has a scale of its own.
    """
    plan, params = _edited(solution.plan, solution.params, solution.model, selected, qtype)
    model = solution.model
    if plan.needs_wide_types and main_opset(model) < WIDE_OPSET:
        model = raise_opset(model.clone(), WIDE_OPSET)
    kept = _kept(solution.record)
    return replace(solution, model=model, plan=plan, params=params, kept=kept)


def _kept(record: Recording) -> dict[str, dict[str, Any]]:
    """Return the fields of a record that no width changes and that nothing here computes."""
    return {
        key: {"shift_bit": entry["shift_bit"]}
        for key, entry in record.entries.items()
        if "shift_bit" in entry
    }


def quantizers_of(solution: Solution) -> list[Quantizer]:
    """Return every input that is quantized."""
    plan = solution.plan
    nodes = {n.name or "": n for n in solution.model.graph}
    found = [
        Quantizer(n, nodes[n].op_type, i, "activation", _name(d.spec.bits, ec=d.compensation))
        for d in plan.activations
        for n, i in d.users
    ]
    return found + [
        Quantizer(
            w.layer,
            nodes[w.layer].op_type,
            w.input_index,
            "weight",
            _name(w.spec.bits, ec=w.compensation),
        )
        for w in plan.weights
    ]


def _name(bits: int, *, ec: bool) -> str:
    return "ec" if ec else f"int{bits}"


def _edited(
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
        notes=(*plan.notes, Note("set_calib_qtype", _in_words(selected, qtype), True)),
    )
    freed = _freed(plan, activations)
    values = {
        w.layer: _values(
            w, base, rough, scales, params.layers[w.layer], w.layer in layers, w.layer in freed
        )
        for w in weights
    }
    return rough, Parameters(scales, values, params.balance)


def _freed(plan: Plan, activations: list[ActivationDecision]) -> set[str]:
    """Return the layers whose weight no longer takes the scales of its input's channels."""
    before = {n for d in plan.activations if d.folded for n, _ in d.users}
    return before - {n for d in activations if d.folded for n, _ in d.users}


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
    if qtype == "ec" and p.axis is not None:
        raise ConfigValueError(
            f"Tensor '{d.tensor}' has a scale for each channel; error compensation ('ec') is for tensors with one "
            "scale. Take int16 here."
        )
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
    freed: bool,
) -> LayerParameters:
    """Round a weight again where its type changes, or what it is multiplied with; its corrected bias stays."""
    if not changes and not freed:
        return layer
    floats = float_weight(base, plan, w, scales)
    if freed:
        p = _chosen_again(w, floats, layer.weight)
    else:
        p = _of_width(layer.weight, w.spec.bits, symmetric=True)
    same = p.dtype == layer.weight.dtype and not freed
    values = layer.values if same else quantize(floats, p)
    rest = residual(floats, values, p) if w.compensation else None
    levels = layer.levels if same else None
    return replace(layer, weight=p, stored=values, levels=levels, residual=rest)


def _chosen_again(w: WeightDecision, floats: Any, old: QuantParams) -> QuantParams:
    """Choose the scale of a weight by its own algorithm; where the width says nothing else, as before."""
    choice = w.algorithm
    algorithm = algorithms.weight(choice.name, **dict(choice.options))
    return algorithm(floats, replace(w.spec, axis=old.axis))


def _layer(layer: LayerDecision, quantized: bool) -> LayerDecision:
    if quantized or not layer.quantized:
        return layer
    return replace(layer, quantized=False, reason="float32 asked for by set_calib_qtype")


def _in_words(selected: list[Quantizer], qtype: str) -> str:
    """Say what was changed."""
    names = list(dict.fromkeys(f"'{q.node}' input {q.input}" for q in selected))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{qtype} without calibrating again: {', '.join(names[:5])}{more}."
