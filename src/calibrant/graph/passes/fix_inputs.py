"""Make constants of inputs that are the same in every use.

The input goes, and whoever read it reads a constant; what follows from that (constants computed, Ifs dissolved) is
the work of `passes.simplify`. A caller that still wants to give the input may keep it: it stands among the inputs of
the written models and nobody reads it (`kept_inputs`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.graph.notes import add_note
from calibrant.graph.values import own_copy

__all__ = [
    "KeptInput",
    "fix_inputs",
    "fixed_values",
    "kept_inputs",
    "with_kept_inputs",
    "without_kept_inputs",
]

#: Key in a graph's `meta` of the values that inputs were fixed to.
_FIXED = "calibrant.fixed_values"

#: Key in a graph's `meta` of the inputs that were fixed and are kept, and in the `meta` of such an input.
_KEPT = "calibrant.kept_input"


@dataclass(frozen=True, slots=True)
class KeptInput:
    """An input that was fixed and stays among the inputs of the written models.

    Args:
        name: Its name.
        place: Its index among the inputs of the model as given, those that have a default left out.
        type: Type of its elements.
        shape: Its shape.
    """

    name: str
    place: int
    type: ir.TypeProtocol | None
    shape: ir.Shape | None


def fix_inputs(
    model: ir.Model,
    values: Mapping[str, Any],
    *,
    keep: bool = False,
    origins: Mapping[str, str] | None = None,
) -> ir.Model:
    """Copy a model in which some inputs are constants.

    Args:
        model: A loaded model; it is not changed.
        values: Input -> what it always is: a number, a flag, a text, or lists of these.
        keep: The written models keep the inputs, and do not read them.
        origins: Input -> where its value stands, for messages.

    Raises:
        ConfigValueError: The model has no such input, a value does not fit its type or shape, or no input is left.
        ConfigTypeError: A value is of another kind than the input.
    """
    heads = origins or {}
    model = own_copy(model)
    graph = model.graph
    given = list(graph.inputs)
    real = [v for v in given if not v.is_initializer()]
    by_name = {v.name or "": v for v in given}
    kept: list[KeptInput] = []
    for name, value in values.items():
        head = f"{heads[name]}: " if heads.get(name) else ""
        if name not in by_name:
            raise ConfigValueError(f"{head}{_unknown(name, given)}")
        source = by_name[name]
        data = _array(value, source, head)
        if source in real:
            kept.append(KeptInput(name, real.index(source), source.type, source.shape))
        _replace(graph, source, data)
        stays = "The written models have it still, and do not read it." if keep else ""
        add_note(model, f"Input '{name}' is fixed to {_told(value)}. {stays}".strip())
    if not [v for v in graph.inputs if not v.is_initializer()]:
        raise ConfigValueError(
            "Every input of the model is fixed; one has to be left, to feed data to."
        )
    graph.meta[_FIXED] = {**fixed_values(model), **{n: _plain(v) for n, v in values.items()}}
    if keep:
        graph.meta[_KEPT] = tuple(sorted(kept, key=lambda k: k.place))
    return model


def fixed_values(model: ir.Model) -> dict[str, Any]:
    """Return the inputs that were fixed in a model, with their values as lists, numbers and texts."""
    found: dict[str, Any] = model.graph.meta.get(_FIXED, {})
    return dict(found)


def kept_inputs(model: ir.Model) -> tuple[KeptInput, ...]:
    """Return the inputs that were fixed in a loaded model and are to be kept."""
    found: tuple[KeptInput, ...] = model.graph.meta.get(_KEPT, ())
    return found


def with_kept_inputs(model: ir.Model, given: ir.Model) -> ir.Model:
    """Return a model with the inputs that are to be kept; itself where there are none, else a copy.

    Args:
        model: A model that was made of `given`.
        given: The loaded model.
    """
    there = {v.name for v in model.graph.inputs}
    missing = [k for k in kept_inputs(given) if k.name not in there]
    if not missing:
        return model
    model = model.clone()
    for kept in missing:
        value = ir.Value(name=kept.name, type=kept.type, shape=kept.shape)
        value.meta[_KEPT] = True
        model.graph.inputs.insert(kept.place, value)
    return model


def without_kept_inputs(model: ir.Model) -> ir.Model:
    """Return a model without the inputs that nobody reads, so that they need not be fed; itself or a copy."""
    if not any(v.meta.get(_KEPT, False) for v in model.graph.inputs):
        return model
    model = model.clone()
    for value in [v for v in model.graph.inputs if v.meta.get(_KEPT, False)]:
        model.graph.inputs.remove(value)
    return model


def _replace(graph: ir.Graph, source: ir.Value, data: npt.NDArray[Any] | ir.StringTensor) -> None:
    name = source.name
    tensor = data if isinstance(data, ir.StringTensor) else ir.tensor(data, name=name)
    if source.is_initializer():  # a default, which gives way
        graph.inputs.remove(source)
        source.const_value = tensor
        return
    constant = ir.Value(
        name=name,
        const_value=tensor,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
    )
    places = [i for i, v in enumerate(graph.outputs) if v is source]
    source.replace_all_uses_with(constant, replace_graph_outputs=True)
    graph.inputs.remove(source)
    source.name = f"{name}__input"
    if places:  # an output of the same name hands the constant out
        constant.name = f"{name}__value"
        copy = ir.Node("", "Identity", [constant], name=f"{name}__handed_out")
        copy.outputs[0].name, copy.outputs[0].type = name, constant.type
        copy.outputs[0].shape = constant.shape
        graph.insert_before(graph[0], copy)
        for i in places:
            graph.outputs[i] = copy.outputs[0]
    graph.register_initializer(constant)


# --------------------------------------------------------------------------------------------- values


def _array(value: Any, source: ir.Value, head: str) -> npt.NDArray[Any] | ir.StringTensor:
    """Return a value in the type and shape of an input."""
    if not isinstance(source.type, ir.TensorType):
        raise ConfigTypeError(f"{head}input '{source.name}' is no tensor, so it cannot be fixed.")
    kind = source.type.dtype
    try:
        raw = np.array(value)
    except ValueError as e:
        raise ConfigValueError(
            f"{head}the value of input '{source.name}' is a list of lists of different lengths."
        ) from e
    _check_kind(raw, kind, source, head)
    if kind == ir.DataType.STRING:
        texts = _shaped(raw, source, head)
        return ir.StringTensor(
            np.array([str(t).encode() for t in texts.flat], object).reshape(texts.shape)
        )
    if kind.is_integer():
        limits = np.iinfo(kind.numpy())
        if (raw < limits.min).any() or (raw > limits.max).any():
            raise ConfigValueError(
                f"{head}input '{source.name}' is {_type_name(kind)}, from {limits.min} to {limits.max}; "
                f"{_told(value)} does not fit."
            )
    with np.errstate(over="ignore"):
        data = raw.astype(kind.numpy())
    if kind.is_floating_point() and not np.isfinite(data).all():
        raise ConfigValueError(
            f"{head}input '{source.name}' is {_type_name(kind)}; {_told(value)} is no finite number of this type."
        )
    return _shaped(data, source, head)


def _check_kind(raw: npt.NDArray[Any], kind: ir.DataType, source: ir.Value, head: str) -> None:
    if kind == ir.DataType.STRING:
        fits, wanted = raw.dtype.kind == "U", "a text"
    elif kind == ir.DataType.BOOL:
        ones = raw.dtype.kind in "biu" and bool(np.isin(raw, (0, 1)).all())
        fits, wanted = ones, "true or false"
    elif kind.is_floating_point():
        fits, wanted = raw.dtype.kind in "iuf", "a number"
    else:
        whole = raw.dtype.kind == "f" and bool((np.rint(raw) == raw).all())
        fits, wanted = raw.dtype.kind in "iu" or whole, "a whole number"
    if not fits:
        raise ConfigTypeError(
            f"{head}input '{source.name}' is {_type_name(kind)}; it is fixed to {wanted}, or a list of them, not to "
            f"{_told(raw.tolist())}."
        )


def _shaped(data: npt.NDArray[Any], source: ir.Value, head: str) -> npt.NDArray[Any]:
    """Return an array in the shape of an input; one number fits every shape that holds one."""
    if source.shape is None:
        return data
    dims = list(source.shape)
    if data.ndim == 0 and all(not isinstance(d, int) or d == 1 for d in dims):
        return data.reshape([1] * len(dims))
    fits = len(dims) == data.ndim and all(
        not isinstance(d, int) or d == n for d, n in zip(dims, data.shape, strict=True)
    )
    if not fits:
        raise ConfigValueError(
            f"{head}input '{source.name}' has shape {_shape_text(source)}; the value has shape {list(data.shape)}."
        )
    return data


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _unknown(name: str, inputs: list[ir.Value]) -> str:
    listed = ", ".join(f"'{v.name}' ({_described(v)})" for v in inputs if not v.is_initializer())
    names = [v.name or "" for v in inputs]
    return f"the model has no input '{name}'; it has {listed}.{did_you_mean(name, names)}"


def _described(value: ir.Value) -> str:
    kind = _type_name(value.dtype) if value.dtype is not None else "of unknown type"
    return f"{kind} {_shape_text(value)}"


def _shape_text(value: ir.Value) -> str:
    if value.shape is None:
        return "of any shape"
    return f"[{', '.join(str(d) if isinstance(d, int) else d.value or '?' for d in value.shape)}]"


def _type_name(kind: ir.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(kind.name.lower(), kind.name.lower())


def _told(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= 60 else f"{text[:57]}..."
