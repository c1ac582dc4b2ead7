"""What an ONNX Runtime session takes."""

from __future__ import annotations

import os
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from calibrant.data.batch import InputInfo
from calibrant.errors import UnsupportedError

__all__ = ["input_infos", "model_inputs"]

#: ONNX Runtime's names of element types that differ from NumPy's.
_TYPES: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "string": np.str_,
    "bfloat16": ml_dtypes.bfloat16,
}


def input_infos(session: Any, model: Any = None) -> list[InputInfo]:
    """Return the inputs of a session, in order.

    Args:
        session: The session. It says the same of a number without dimensions and of an unknown rank.
        model: The model that it was opened for (a path, bytes, or a model in memory), which tells them apart.

    Raises:
        UnsupportedError: An input is no dense tensor.
    """
    inputs = session.get_inputs()
    numbers = _numbers(model) if model is not None and not all(i.shape for i in inputs) else set()
    return [
        InputInfo(
            i.name,
            () if i.name in numbers else tuple(d or None for d in i.shape) or None,
            _dtype(i.name, i.type),
        )
        for i in inputs
    ]


def _numbers(model: Any) -> set[str]:
    """Return the names of a model's inputs that have no dimensions."""
    if isinstance(model, ir.Model):
        return {v.name or "" for v in model.graph.inputs if v.shape is not None and not v.shape}
    if isinstance(model, (str, os.PathLike)):
        model = onnx.load(model, load_external_data=False)
    elif isinstance(model, bytes):
        model = onnx.ModelProto.FromString(model)
    return {
        v.name
        for v in model.graph.input
        if v.type.tensor_type.HasField("shape") and not v.type.tensor_type.shape.dim
    }


def _dtype(name: str, kind: str) -> np.dtype[Any]:
    element = kind.removeprefix("tensor(").removesuffix(")")
    try:
        dtype: np.dtype[Any] = np.dtype(_TYPES.get(element, element))
    except TypeError as e:
        raise UnsupportedError(
            f"Model input '{name}' is a {kind}; inputs have to be tensors of numbers."
        ) from e
    return dtype


def model_inputs(model: ir.Model) -> list[InputInfo]:
    """Return the inputs of a model in memory, in order; initializers that are inputs too are left out.

    Raises:
        UnsupportedError: An input is no dense tensor of numbers.
    """
    infos = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        if not isinstance(value.type, ir.TensorType):
            raise UnsupportedError(
                f"Model input '{value.name}' is a {value.type}; inputs have to be tensors of numbers."
            )
        shape: tuple[int | str | None, ...] | None = None
        if value.shape is not None:
            shape = tuple(d if isinstance(d, int) else (d.value or None) for d in value.shape)
        infos.append(InputInfo(value.name or "", shape, np.dtype(value.type.dtype.numpy())))
    return infos
