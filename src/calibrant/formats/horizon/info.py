"""`quant_info.json` of the Horizon format: what holds for each node, on which level it was decided, and why.

    calibration_nodes   <name> -> kind, tensor, qtype, thresholds, scales, zero_points, axis, consumers, from
    nodes               <node> -> type, qtype, from, inputs, settings, cosine, reason, origin
    outputs             distances of the outputs, where they were compared
    not_honoured        requests that are not met as written, and the reason

`from` is the section of a `quant_config` (`model_config`, `op_config`, `subgraph_config`, `node_config`), the place
of the rule where another dialect said it, or `default`. Zero points are on the signed grid.

Source: docs/reference/artefacts.md, "Files of --format horizon" (every key).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from calibrant.emit.nodes import node_types
from calibrant.findings import Findings
from calibrant.formats.horizon.calibrated import CalibrationNames, calibration_names
from calibrant.numerics import QuantParams
from calibrant.plan import ActivationDecision, LayerDecision
from calibrant.solution import Solution

__all__ = ["horizon_info"]

_SECTION = re.compile(r"\b(model|op|subgraph|node)_config\b")

#: How the dialects end the origin of what no line of a file says.
_UNWRITTEN = (": default", ": not asked for")

#: Settings that decide a type, the finest first.
_TYPE_FIELDS = ("compensation", "activation_bits", "compute")


def horizon_info(
    solution: Solution, findings: Findings, origin: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the content of `quant_info.json` as plain values.

    Args:
        solution: What was decided.
        findings: What was found and measured.
        origin: Node -> nodes of the original model that it was made of.
    """
    called = calibration_names(solution.model, solution.plan, solution.params)
    return {
        "version": 1,
        "target": solution.plan.target.name,
        "calibration_nodes": _activations(solution, called) | _weights(solution, called),
        "nodes": _nodes(solution, findings, called, origin),
        "outputs": [asdict(d) for d in findings.distances],
        "not_honoured": [
            {"where": n.where, "reason": n.message} for n in solution.plan.notes if not n.honoured
        ],
    }


def _activations(solution: Solution, called: CalibrationNames) -> dict[str, Any]:
    readers: dict[str, list[str]] = {}
    for node in solution.model.graph:
        for value in node.inputs:
            if value is not None:
                readers.setdefault(value.name or "", []).append(node.name or "")
    found = {}
    for d in solution.plan.activations:
        consumers = [node for node, _ in d.users]
        if d.producer is not None:
            elsewhere = {
                node
                for other in solution.plan.activations
                if other.tensor == d.tensor and other is not d
                for node, _ in other.users
            }
            consumers = [n for n in readers.get(d.tensor, []) if n not in elsewhere]
        found[called.activations[d.id]] = {
            "kind": "activation",
            "tensor": d.tensor,
            "qtype": _qtype(d),
            "from": _level(d.origin, _TYPE_FIELDS),
            **_numbers(solution.params.activations[d.id]),
            "calibrate_type": "fixed range" if d.fixed_range else str(d.algorithm),
            "calibrate_type_from": _level(d.origin, ("activation",)),
            "consumers": list(dict.fromkeys(consumers)),
        }
    return found


def _weights(solution: Solution, called: CalibrationNames) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for w in solution.plan.weights:
        name = called.weights[w.layer]
        if name in found:
            found[name]["consumers"].append(w.layer)
            continue
        bits = solution.params.layers[w.layer].weight.dtype.bits
        found[name] = {
            "kind": "weight",
            "tensor": w.weight,
            "qtype": "ec" if w.compensation else f"int{bits}",
            "from": _level(w.origin, ("compensation", "weight_bits")),
            **_numbers(solution.params.layers[w.layer].weight),
            "calibrate_type": str(w.algorithm),
            "calibrate_type_from": _level(w.origin, ("weight",)),
            "consumers": [w.layer],
        }
    return found


def _numbers(p: QuantParams) -> dict[str, Any]:
    """Return thresholds (`scale * qmax`, or the farther end of an uneven range), scales and zero points."""
    low, high = p.range
    ends = np.where(p.zero_point == 0, high, np.maximum(np.abs(low), np.abs(high)))
    return {
        "thresholds": np.atleast_1d(ends).tolist(),
        "scales": np.atleast_1d(p.scale).tolist(),
        "zero_points": np.atleast_1d(p.zero_point).tolist(),
        "axis": p.axis,
    }


def _nodes(
    solution: Solution,
    findings: Findings,
    called: CalibrationNames,
    origin: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    layers = {d.node: d for d in solution.plan.layers}
    weights = {w.layer: w for w in solution.plan.weights}
    measured = {row.node: row.cosine for row in findings.nodes}
    reads = _reads(solution)
    nodes = {n.name or "": n for n in solution.model.graph}
    found = {}
    for row in node_types(solution.model, solution.plan, solution.params):
        inputs: dict[str, Any] = {}
        for index, threshold in row.thresholds.items():
            d = reads[row.node, index]
            value = nodes[row.node].inputs[index]
            inputs[f"input{index}"] = {
                "tensor": value.name if value is not None else "",
                "qtype": _qtype(d),
                "from": _level(d.origin, _TYPE_FIELDS),
                "threshold": threshold,
                "calibration_node": called.activations[d.id],
            }
        if row.node in weights:
            w = weights[row.node]
            bits = solution.params.layers[w.layer].weight.dtype.bits
            inputs[f"input{w.input_index}"] = {
                "tensor": w.weight,
                "qtype": "ec" if w.compensation else f"int{bits}",
                "from": _level(w.origin, ("compensation", "weight_bits")),
                "calibration_node": called.weights[row.node],
            }
        layer = layers.get(row.node)
        level = _level(layer.origin, _TYPE_FIELDS) if layer is not None else "default"
        own = [i for i in inputs.values() if "threshold" in i and i["qtype"] == row.data_type]
        found[row.node] = {
            "type": row.op_type,
            "qtype": row.data_type,
            "from": own[0]["from"] if own else level,
            "inputs": dict(sorted(inputs.items())),
            "settings": _settings(layer) if layer is not None else {},
            "cosine": measured.get(row.node),
            "reason": layer.reason if layer is not None else "",
            "origin": list(origin.get(row.node, [])),
        }
    return found


def _reads(solution: Solution) -> dict[tuple[str, int], ActivationDecision]:
    """Return what each edge reads through: its own quantizer, or that of the tensor's producer."""
    shared = {d.tensor: d for d in solution.plan.activations if d.producer is not None}
    found = {}
    for node in solution.model.graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in shared:
                found[node.name or "", index] = shared[value.name]
    for d in solution.plan.activations:
        found |= dict.fromkeys(d.users, d)
    return found


def _settings(layer: LayerDecision) -> dict[str, Any]:
    return {
        name: {
            "value": value if isinstance(value, (bool, int, float)) else str(value),
            "from": _level(layer.origin, (name,)),
            "rule": layer.origin.get(name, "default"),
        }
        for name, value in layer.settings.items()
        if name != "candidates"
    }


def _qtype(d: ActivationDecision) -> str:
    return "ec" if d.compensation else f"int{d.spec.bits}"


def _level(origin: Mapping[str, str], fields: Sequence[str]) -> str:
    """Return the section that decided the first of the fields that somebody said."""
    for name in fields:
        if name in origin and not origin[name].endswith(_UNWRITTEN):
            section = _SECTION.search(origin[name])
            return section.group(0) if section else origin[name]
    return "default"
