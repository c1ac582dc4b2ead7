"""Bring a record together with the float model: where quantizers stand, and with what.

Entries say which inputs of which layers are quantized. Inputs of one tensor with equal numbers share a
quantizer. What else there is (a quantizer that a producer needs, scales by channel) the extras say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.graph.ops import bias_of, is_constant, rule_of, weight_axis, weight_index
from calibrant.graph.targets import Target
from calibrant.graph.values import values_by_name
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.dtype import IntType
from calibrant.plan import ActivationDecision, Edge, LayerDecision, Plan, WeightDecision
from calibrant.plan.given import Given
from calibrant.recipe import AlgorithmChoice, Settings
from calibrant.record.check import activation_params, check_entry, weight_params
from calibrant.record.extras import QuantizerExtra
from calibrant.record.read import Entry, Record

__all__ = ["edge_of", "recorded"]


FROM_RECORD = AlgorithmChoice("from-record")


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


def recorded(record: Record, model: ir.Model, target: Target, half: tuple[str, ...]) -> Given:
    """Bring a record together with a model whose form is that of the record.

    Raises:
        ConfigValueError: A number is not allowed, or the model lacks what the record names.
        ConfigRuntimeError: Numbers are missing.
    """
    nodes = {n.name or "": n for n in model.graph}
    by_edge: dict[Edge, Entry] = {}
    by_channel = {k for q in record.extras.quantizer if q.axis is not None for k in q.entries}
    for entry in record.entries.values():
        check_entry(entry, by_channel=entry.key in by_channel)
        edge = edge_of(entry, nodes)
        if edge in by_edge:
            raise ConfigValueError(
                f"{entry.where}: '{entry.key}' and '{by_edge[edge].key}' are both for input {edge[1]} of layer "
                f"'{edge[0]}'."
            )
        by_edge[edge] = entry
    activations, params = _activations(record, model, by_edge, nodes, target)
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
    if record.extras.tiny_scales:
        plan = plan.with_tiny_to_one()
    return Given(plan, params, of_weights)


def _activations(
    record: Record,
    model: ir.Model,
    by_edge: Mapping[Edge, Entry],
    nodes: Mapping[str, ir.Node],
    target: Target,
) -> tuple[list[ActivationDecision], dict[str, QuantParams]]:
    values = values_by_name(model.graph)
    order = {name: i for i, name in enumerate(values)}
    found: list[ActivationDecision] = []
    params: dict[str, QuantParams] = {}
    done: set[Edge] = set()
    for extra in record.extras.quantizer:
        kept = _of_extra(extra, record, by_edge, values, nodes, target)
        if kept is not None:
            d, p = kept
            if d.id in params:
                raise ConfigValueError(f"{record.source}: there are two quantizers '{d.id}'.")
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
    extra: QuantizerExtra,
    record: Record,
    by_edge: Mapping[Edge, Entry],
    values: Mapping[str, ir.Value],
    nodes: Mapping[str, ir.Node],
    target: Target,
) -> tuple[ActivationDecision, QuantParams] | None:
    """Return a quantizer of the comments; None where all that it was for was taken out of the record."""
    edges = {*extra.users, *extra.entries.values()}
    known = extra.tensor in values and all(
        n in nodes and 0 <= i < len(nodes[n].inputs) for n, i in edges
    )
    if not known or (extra.producer is not None and extra.producer not in nodes):
        raise ConfigValueError(
            f"{record.source}: quantizer '{extra.id}' stands at tensor '{extra.tensor}' and inputs of nodes that the "
            "model does not all have: this is the record of another model."
        )
    gone = {e for key, e in extra.entries.items() if key not in record.entries}
    users = tuple(e for e in extra.users if e not in gone)
    producer = extra.producer
    if producer is not None and nodes[producer].op_type in target.integer_outputs:
        taken_out = all(n != producer for n, _ in by_edge)
        producer = None if taken_out else producer
    if not users and producer is None:
        return None
    rank = values[extra.tensor].shape
    if extra.axis is not None and rank is not None and extra.axis >= len(rank):
        raise ConfigValueError(
            f"{record.source}: quantizer '{extra.id}' has scales along axis {extra.axis}; its tensor has {len(rank)} "
            "axes."
        )
    entry = next((record.entries[k] for k in extra.entries if k in record.entries), None)
    if entry is not None:
        p = activation_params(entry, extra.axis)
    else:
        p = QuantParams(
            np.array(extra.scale, dtype=np.float32),
            np.array(extra.zero_point, dtype=np.int32),
            IntType(extra.bits),
            extra.axis,
        )
    channels = int(p.scale.size) if extra.axis is not None else None
    decision = _decision(extra.id, extra.tensor, users, producer, p)
    return (
        replace(decision, folded=extra.folded, channels=channels, compensation=extra.compensation),
        p,
    )


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
    stored = {e.layer: e.storage for e in record.extras.weight}
    compensated = {e.layer for e in record.extras.compensated}
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
        params[name] = p
        found.append(
            WeightDecision(
                layer=name,
                weight=value.name or "",
                input_index=weight,
                bias=bias.name if bias is not None else None,
                spec=QuantSpec(bits=p.dtype.bits, symmetric=True, axis=p.axis),
                channel_axis=weight_axis(node),
                algorithm=FROM_RECORD,
                origin={"weight": "the record"},
                compensation=name in compensated,
                stores_indices=stored.get(name) == "indices",
            )
        )
    return found, params


def _layer(node: ir.Node, quantized: bool) -> LayerDecision:
    settings = Settings(compute="int" if quantized else "float32")
    reason = "" if quantized else "the record does not have it"
    return LayerDecision(
        node.name or "", node.op_type, settings, {"compute": "the record"}, quantized, reason
    )
