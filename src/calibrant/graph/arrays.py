"""Weights as arrays.

A tensor that stands in a message of protobuf is copied whenever somebody reads its numbers, and a message goes as a whole or
not at all. A large weight is read by everything here, and by each session (`runtime.lent`): as an array it is in memory once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from calibrant.errors import ModelError

__all__ = ["deserialized"]

#: Smaller tensors stay as they are [values].
_LARGE = 1024

#: Types that numpy has, and that arrays and messages write alike.
_TYPES = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT32,
        onnx.TensorProto.INT64,
    }
)


def deserialized(proto: onnx.ModelProto, *, keep: bool) -> ir.Model:
    """Return a model whose large weights are arrays.

    Args:
        proto: The model as a message.
        keep: Somebody else has the message: it stays as it is. Otherwise its large weights are taken out of it.

    Raises:
        ModelError: A weight has more or fewer values than its shape says; the message names it.
    """
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for tensor in proto.graph.initializer:
        if _is_large(tensor):
            arrays[tensor.name] = _array(tensor)
            if not keep:
                _empty(tensor)
    if arrays and not keep:
        light = onnx.ModelProto()
        light.CopyFrom(proto)  # what was taken out of the other one goes with it
        proto = light
    model = ir.serde.deserialize_model(proto)
    for name, array in arrays.items():
        value = model.graph.initializers[name]
        old = value.const_value
        assert old is not None
        value.const_value = ir.Tensor(
            array, name=name, doc_string=old.doc_string, metadata_props=dict(old.metadata_props)
        )
    return model


def _array(tensor: onnx.TensorProto) -> npt.NDArray[np.generic]:
    try:
        return numpy_helper.to_array(tensor)
    except ValueError as e:
        raise ModelError(
            f"Weight '{tensor.name}' does not hold as many values as its shape {list(tensor.dims)} says: {e}."
        ) from e


def _is_large(tensor: onnx.TensorProto) -> bool:
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL
    return inside and tensor.data_type in _TYPES and np.prod(tensor.dims, dtype=float) > _LARGE


def _empty(tensor: onnx.TensorProto) -> None:
    for name in ("raw_data", "float_data", "double_data", "int32_data", "int64_data"):
        tensor.ClearField(name)
