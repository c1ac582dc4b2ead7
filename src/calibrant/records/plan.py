"""Bring a record together with the float model: where quantizers stand, and with what.

Entries say which inputs of which layers are quantized. Inputs of one tensor with equal numbers share a
quantizer. What else there is (a quantizer that a producer needs, scales by channel) the extras say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrant.errors import ConfigRuntimeError, ConfigValueError, did_you_mean
from calibrant.graph.ops import bias_of, is_constant, rule_of, weight_axis, weight_index
from calibrant.graph.targets import Target
from calibrant.graph.values import values_by_name
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.dtype import IntType
from calibrant.plan import ActivationDecision, LayerDecision, Plan, WeightDecision
from calibrant.recipe import AlgorithmChoice, Settings
from calibrant.records.check import activation_params, check_entry, weight_params
from calibrant.records.read import Entry, Record

__all__ = ["Recorded", "edge_of", "recorded"]

Edge = tuple[str, int]

FROM_RECORD = AlgorithmChoice("from-record")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a record means for a model.

    Args:
        plan: Where quantizers stand.
        activations: Parameters by quantizer id.
        weights: Parameters by layer.
    """

    plan: Plan
    activations: Mapping[str, QuantParams]
    weights: Mapping[str, QuantParams]


def edge_of(entry: Entry, nodes: Mapping[str, ir.Node]) -> Edge:
    """Return the input that an entry is for.

    Raises:
        ConfigValueError: The model has no such layer or input.
    """
    name, _, number = entry.key.rpartition(":")
    if entry.key in nodes:
        node = nodes[entry.key]
        weight = weight_index(node)
        index = 0 if weight is None else 1 - weight
    elif name in nodes and number.isdigit():
        node, index = nodes[name], int(number)
    else:
        raise ConfigValueError(
            f"{entry.where}: the model has no layer '{entry.key}'."
            + did_you_mean(entry.key, nodes)
        )
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or is_constant(value):
        raise ConfigValueError(
            f"{entry.where}: input {index} of layer '{node.name}' ({node.op_type}) is no activation."
        )
    return node.name or "", index


def recorded(record: Record, model: ir.Model, target: Target, half: tuple[str, ...]) -> Recorded:
    """Bring a record together with a model whose form is that of the record.

    Raises:
        ConfigValueError: A number is not allowed, or the model lacks what the record names.
        ConfigRuntimeError: Numbers are missing.
    """
    nodes = {n.name or "": n for n in model.graph}
    by_edge: dict[Edge, Entry] = {}
    for entry in record.entries.values():
        check_entry(entry)
        by_edge[edge_of(entry, nodes)] = entry
    activations, params = _activations(record, model, by_edge, nodes)
    weights, of_weights = _weights(record, by_edge, nodes)
    quantized = {n for n, _ in by_edge}
    layers = tuple(
        _layer(n, n.name in quantized)
        for n in model.graph
        if rule_of(n).kind in ("compute", "pool")
        and (n.name in quantized or n.op_type in target.anchors)
    )
    followers = tuple(
        n
        for n in nodes
        if n not in quantized and any(n == user for d in activations for user, _ in d.users)
    )
    plan = Plan(target, tuple(activations), tuple(weights), layers, followers, half)
    return Recorded(plan, params, of_weights)


def _activations(
    record: Record,
    model: ir.Model,
    by_edge: Mapping[Edge, Entry],
    nodes: Mapping[str, ir.Node],
) -> tuple[list[ActivationDecision], dict[str, QuantParams]]:
    values = values_by_name(model.graph)
    order = {name: i for i, name in enumerate(values)}
    found: list[ActivationDecision] = []
    params: dict[str, QuantParams] = {}
    done: set[Edge] = set()
    for extra in record.all_of("quantizer"):
        d, p = _of_extra(extra, record, values, nodes)
        found.append(d)
        params[d.id] = p
        done |= set(d.users)
    shared: dict[tuple[object, ...], list[Edge]] = {}
    for edge, entry in by_edge.items():
        if edge not in done:
            value = nodes[edge[0]].inputs[edge[1]]
            assert value is not None
            p = activation_params(entry, None)
            key = (value.name, float(p.scale), int(p.zero_point), p.dtype.bits)
            shared.setdefault(key, []).append(edge)
    for (tensor, *_), users in shared.items():
        p = activation_params(by_edge[users[0]], None)
        name, n = str(tensor), 1
        while name in params:
            name, n = f"{tensor}#{n + 1}", n + 1
        params[name] = p
        found.append(_decision(name, str(tensor), tuple(users), None, p))
    return sorted(found, key=lambda d: order.get(d.tensor, 0)), params


def _of_extra(
    extra: Mapping[str, Any],
    record: Record,
    values: Mapping[str, ir.Value],
    nodes: Mapping[str, ir.Node],
) -> tuple[ActivationDecision, QuantParams]:
    try:
        tensor, producer = extra["tensor"], extra["producer"]
        users = tuple((str(n), int(i)) for n, i in extra["users"])
        axis, folded = extra.get("axis"), bool(extra.get("folded", False))
        if "entry" in extra:
            entry = record.entries[extra["entry"]]
            check_entry(entry)
            p = activation_params(entry, axis)
        else:
            p = QuantParams(
                np.array(extra["scale"], dtype=np.float32),
                np.array(extra["zero_point"], dtype=np.int32),
                IntType(extra["bits"]),
                axis,
            )
        known = tensor in values and all(n in nodes for n, _ in users)
        known = known and (producer is None or producer in nodes)
    except (KeyError, TypeError, ValueError) as e:
        raise ConfigValueError(
            f"{record.source}: the comment of calibrant's about quantizer {extra.get('id')!r} lacks or contradicts "
            f"something ({type(e).__name__}: {e})."
        ) from e
    if not known:
        raise ConfigValueError(
            f"{record.source}: quantizer '{extra['id']}' stands at tensor '{tensor}' and nodes that the model does "
            "not all have: this is the record of another model."
        )
    channels = int(p.scale.size) if axis is not None else None
    decision = _decision(str(extra["id"]), tensor, users, producer, p)
    compensation = bool(extra.get("compensation", False))
    return replace(decision, folded=folded, channels=channels, compensation=compensation), p


def _decision(
    name: str, tensor: str, users: tuple[Edge, ...], producer: str | None, p: QuantParams
) -> ActivationDecision:
    return ActivationDecision(
        id=name,
        tensor=tensor,
        users=users,
        producer=producer,
        spec=QuantSpec(bits=p.dtype.bits, symmetric=not p.zero_point.any(), axis=p.axis),
        algorithm=FROM_RECORD,
        fixed_range=None,
        group=name,
        origin={"activation": "the record"},
    )


def _weights(
    record: Record, by_edge: Mapping[Edge, Entry], nodes: Mapping[str, ir.Node]
) -> tuple[list[WeightDecision], dict[str, QuantParams]]:
    stored = {e["layer"]: e["storage"] for e in record.all_of("weight")}
    compensated = {e["layer"] for e in record.all_of("compensated")}
    found: list[WeightDecision] = []
    params: dict[str, QuantParams] = {}
    for (name, index), entry in by_edge.items():
        node = nodes[name]
        weight = weight_index(node)
        if weight is None or index != 1 - weight:
            if entry.value.scale_w:
                raise ConfigValueError(
                    f"{entry.where}: '{entry.key}' has scale_w, and input {index} of a {node.op_type} has no "
                    "constant weight beside it."
                )
            continue
        p = weight_params(entry, node)
        place = bias_of(node)
        bias = place[0].inputs[place[1]] if place is not None else None
        value = node.inputs[weight]
        assert value is not None
        algorithm = FROM_RECORD
        if name in stored:
            algorithm = AlgorithmChoice.of("nuq", {"levels": 16, "storage": stored[name]})
        params[name] = p
        found.append(
            WeightDecision(
                layer=name,
                weight=value.name or "",
                input_index=weight,
                bias=bias.name if bias is not None else None,
                spec=QuantSpec(bits=p.dtype.bits, symmetric=True, axis=p.axis),
                channel_axis=weight_axis(node),
                algorithm=algorithm,
                origin={"weight": "the record"},
                compensation=name in compensated,
            )
        )
    if not found and not by_edge:
        raise ConfigRuntimeError(f"{record.source} quantizes nothing of this model.")
    return found, params


def _layer(node: ir.Node, quantized: bool) -> LayerDecision:
    settings = Settings(compute="int" if quantized else "float32")
    reason = "" if quantized else "the record does not have it"
    return LayerDecision(
        node.name or "", node.op_type, settings, {"compute": "the record"}, quantized, reason
    )
