"""Weights that a file holds sparsely: values, and where they lie.

Nothing that reads models here knows of them, so they become arrays like others. Source: ONNX IR, `SparseTensorProto`:
indices are one number for each value in the flattened array, or one for each axis.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["with_dense_weights"]


def with_dense_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose weights are all dense: itself where they are, else a copy."""
    if not model.graph.sparse_initializer:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for sparse in copy.graph.sparse_initializer:
        values = numpy_helper.to_array(sparse.values)
        places = numpy_helper.to_array(sparse.indices)
        shape = tuple(sparse.dims)
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), shape)
        dense = np.zeros(math.prod(shape), values.dtype)
        dense[places] = values
        name = sparse.values.name
        copy.graph.initializer.append(numpy_helper.from_array(dense.reshape(shape), name))
    copy.graph.ClearField("sparse_initializer")
    return copy
