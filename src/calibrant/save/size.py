"""The bytes of a model's files.

A large model in memory is measured without writing it: its structure is written into a message whose large tensors are
empty, and the bytes of these are added. A file that a model was read from is measured as it lies on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["file_bytes", "given_bytes", "weight_bytes"]

#: A model of no more bytes of weights is measured in one message [bytes].
SMALL = 64 * 2**20

#: A tensor of more bytes is left out of the message, and its bytes are added [bytes].
LARGE = 1024

#: Bytes that a field of protobuf takes beside its content: a tag and the length (3 for up to 2 MiB) [bytes].
FIELD = 4


def given_bytes(source: Any, model: ir.Model) -> int:
    """Return the bytes of a model as it was given.

    Args:
        source: What was given: a path is measured on the disk, the files of its weights with it.
        model: The same, loaded.
    """
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_file():
        return file_bytes(model)
    weights = {Path(t.path).resolve() for t in _tensors(model) if isinstance(t, ir.ExternalTensor)}
    return sum(p.stat().st_size for p in (Path(source), *weights))


def file_bytes(model: ir.Model) -> int:
    """Return the bytes that a model takes on the disk, weights in a file of their own included.

    Weights count wherever they stand: initializers, Constant nodes, and both inside bodies. Of a model of more than
    64 MiB, exact but for some bytes a large tensor.
    """
    outside = any(isinstance(t, ir.ExternalTensor) for t in _tensors(model))
    if not outside and weight_bytes(model) <= SMALL:
        return int(ir.to_proto(model).ByteSize())
    light = model.clone()
    left_out = 0
    for graph in light.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and _is_large(tensor):
                left_out += tensor.nbytes + FIELD
                value.const_value = _emptied(tensor)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and _is_large(attribute.as_tensor()):
                    tensor = attribute.as_tensor()
                    left_out += tensor.nbytes + FIELD
                    node.attributes[name] = ir.AttrTensor(name, _emptied(tensor))
    return int(ir.to_proto(light).ByteSize()) + left_out


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all tensors of a model: initializers and Constant nodes, those in bodies too."""
    return sum(t.nbytes for t in _tensors(model) if t.dtype != ir.DataType.STRING)


def _tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    found = []
    for graph in model.graphs():
        found += [v.const_value for v in graph.initializers.values() if v.const_value is not None]
        found += [
            a.as_tensor()
            for node in graph
            for a in node.attributes.values()
            if a.type == ir.AttributeType.TENSOR
        ]
    return found


def _is_large(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes > LARGE


def _emptied(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor of the same name, type and shape whose numbers take no bytes."""
    empty = ir.Tensor(np.empty(0, np.uint8))
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: empty, tensor.dtype, shape, name=tensor.name)
