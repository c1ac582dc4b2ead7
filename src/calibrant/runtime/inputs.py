"""What an ONNX Runtime session takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from calibrant.data.batch import InputInfo
from calibrant.errors import UnsupportedError

__all__ = ["input_infos", "model_inputs", "takes_one_sample"]

#: Lengths of axes: a number, a name, or None where nothing is said.
Shape = tuple[int | str | None, ...] | None

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
    infos = [
        InputInfo(
            i.name,
            () if i.name in numbers else tuple(d or None for d in i.shape) or None,
            _dtype(i.name, i.type),
        )
        for i in inputs
    ]
    return _one_by_one(infos, [tuple(d or None for d in o.shape) for o in session.get_outputs()])


def takes_one_sample(model: ir.Model) -> bool:
    """Whether a model takes one sample at a time, although the first axis of its inputs is free (`_is_one`)."""
    shapes = [_shape(v) for v in model.graph.inputs if v.name not in model.graph.initializers]
    return _is_one(shapes, [_shape(v) for v in model.graph.outputs])


def _is_one(inputs: Sequence[Shape], outputs: Sequence[Shape]) -> bool:
    """Whether a free axis of samples never comes out again: every output has one row, and none has that axis.

    An exporter that works with a batch of 1 writes this 1 into the shapes inside, and declares what it was told of the
    inputs. Nothing is concluded where an output has a length that no input has.

    Example:
        >>> _is_one([("batch", "seq")], [(1, "seq", 2)]), _is_one([("batch", "seq")], [("batch", 2)])
        (True, False)
    """
    rows = {s[0] if s else None for s in inputs if s != ()}
    if len(rows) != 1 or not isinstance(next(iter(rows)), str) or not outputs:
        return False
    known = {d for s in inputs if s for d in s if isinstance(d, str)} - rows
    return (
        all(
            bool(s) and s[0] == 1 and all(isinstance(d, int) or d in known for d in s)
            for s in outputs
            if s is not None
        )
        and None not in outputs
    )


def _one_by_one(infos: list[InputInfo], outputs: Sequence[Shape]) -> list[InputInfo]:
    """Return inputs with one row each, where the model takes no more."""
    if not _is_one([i.shape for i in infos], outputs):
        return infos
    return [replace(i, shape=(1, *i.shape[1:])) if i.shape else i for i in infos]


def _numpy(kind: ir.DataType) -> np.dtype[Any]:
    return np.dtype(np.str_) if kind == ir.DataType.STRING else np.dtype(kind.numpy())


def _shape(value: ir.Value) -> Shape:
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else (d.value or None) for d in value.shape)


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
        infos.append(InputInfo(value.name or "", _shape(value), _numpy(value.type.dtype)))
    return _one_by_one(infos, [_shape(v) for v in model.graph.outputs])
