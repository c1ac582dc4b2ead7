"""The digest of a model: equal for models that compute the same with the same names, whatever file they are in.

It covers the nodes with their attributes and bodies, the names of tensors, and every weight. What only describes a
model (shapes of tensors between, documentation, metadata, the tool that wrote it) does not count.
"""

from __future__ import annotations

import hashlib

import onnx_ir as ir

__all__ = ["digest"]


def digest(model: ir.Model) -> str:
    """Return the SHA-256 of a model's content and form, as 64 hexadecimal digits.

    Two forms of one model, such as before and after folding a batch normalization, have two digests.
    """
    found = hashlib.sha256()
    graph = model.graph
    opsets = sorted(model.opset_imports.items())
    names = [[v.name for v in values] for values in (graph.inputs, graph.outputs)]
    found.update(repr((opsets, names)).encode())
    for node in graph:
        proto = ir.serde.serialize_node(node)
        proto.ClearField("doc_string")
        proto.ClearField("metadata_props")
        found.update(proto.SerializeToString(deterministic=True))
    for name, value in sorted(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None:
            found.update(repr((name, tensor.dtype.name, list(tensor.shape.numpy()))).encode())
            found.update(
                repr(tensor.string_data()).encode()
                if isinstance(tensor, ir.StringTensor)
                else tensor.tobytes()
            )
    return found.hexdigest()
