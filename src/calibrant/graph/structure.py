"""The digest of a model's structure: equal for models of one architecture, whatever their weights and names are."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

__all__ = ["structure_digest"]


def structure_digest(model: ir.Model) -> str:
    """Return the SHA-256 of what a graph is made of, as 64 hexadecimal digits.

    It covers operators with their attributes, who reads whom, and the shapes and types of weights. Names and the values of
    weights do not count.
    """
    graph = model.graph
    ids = {v: f"input {i}" for i, v in enumerate(graph.inputs)}
    found = hashlib.sha256()
    for index, node in enumerate(graph):
        read = [_id(v, ids) for v in node.inputs]
        own = sorted((a.name, str(a.type), _value(a)) for a in node.attributes.values())
        found.update(repr((node.domain, node.op_type, own, read)).encode())
        ids |= {v: f"{index}:{i}" for i, v in enumerate(node.outputs)}
    found.update(repr([_id(v, ids) for v in graph.outputs]).encode())
    return found.hexdigest()


def _id(value: ir.Value | None, ids: dict[ir.Value, str]) -> str:
    if value is None:
        return "none"
    if value.const_value is not None:
        tensor = value.const_value
        return f"weight {tensor.dtype.name} {list(tensor.shape.numpy())}"
    return ids.get(value, "outer")


def _value(attribute: ir.Attr) -> str:
    """Return an attribute as text; of tensors the shape, of bodies their operators."""
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return str(list(value.shape.numpy()))
    if attribute.type == ir.AttributeType.GRAPH:
        return repr([n.op_type for n in value])
    return repr(value)
