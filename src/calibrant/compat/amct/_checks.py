"""Checks of what accuracy_based_auto_calibration is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from calibrant.errors import ConfigTypeError, ConfigValueError

__all__ = ["check_names", "having", "named"]


def having(thing: Any, methods: Sequence[str], what: str) -> Any:
    """Return an object that has some methods.

    Raises:
        ConfigTypeError: It lacks one.
    """
    for name in methods:
        if not callable(getattr(thing, name, None)):
            raise ConfigTypeError(
                f"{what} is a {type(thing).__name__} without the method {name}; it has {', '.join(methods)}."
            )
    return thing


def named(name: str, known: str, what: str) -> None:
    """Check the name of what comes with the function.

    Raises:
        ConfigValueError: It is another one.
    """
    if name != known:
        raise ConfigValueError(f"{what} is '{name}'; it is '{known}', or an object of yours.")


def check_names(
    model: ir.Model,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    axes: Mapping[str, Any] | None,
) -> None:
    """Check that names and free axes are those of the model; it is ONNX already, so they cannot be given to it.

    Raises:
        ConfigValueError: They are not.
    """
    constants = model.graph.initializers
    own = [v for v in model.graph.inputs if v.name not in constants]
    for said, values, what in (
        (inputs, own, "input_names"),
        (outputs, list(model.graph.outputs), "output_names"),
    ):
        names = [v.name for v in values]
        if said is not None and list(said) != names:
            raise ConfigValueError(
                f"{what} is {list(said)}; the model has {', '.join(map(str, names))}."
            )
    every = {v.name: v for v in (*own, *model.graph.outputs)}
    for name, free in (axes or {}).items():
        if name not in every:
            raise ConfigValueError(f"dynamic_axes names '{name}', which the model does not have.")
        shape = every[name].shape
        for axis in free:
            if shape is not None and isinstance(shape[int(axis)], int):
                raise ConfigValueError(
                    f"dynamic_axes says that axis {axis} of '{name}' is free; in the model it is {shape[int(axis)]}."
                )
