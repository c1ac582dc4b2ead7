"""What an ONNX Runtime session takes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
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


def input_infos(session: Any) -> list[InputInfo]:
    """Return the inputs of a session, in order.

    Raises:
        UnsupportedError: An input is no dense tensor.
    """
    return [
        InputInfo(i.name, tuple(i.shape), _dtype(i.name, i.type)) for i in session.get_inputs()
    ]


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
        shape: tuple[int | str | None, ...] = ()
        if value.shape is not None:
            shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
        infos.append(InputInfo(value.name or "", shape, np.dtype(value.type.dtype.numpy())))
    return infos
