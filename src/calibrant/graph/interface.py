"""The last check of a model that was made from another one: who runs it finds the same inputs and outputs.

Names, their order and types of elements have to be equal. Passes rename, remove and insert values; whatever goes
wrong there shows here, before a file is written.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from calibrant.errors import ModelError

__all__ = ["check_interface"]

#: Name and type of an input or output; None where the type is not known.
_Port = tuple[str, ir.DataType | None]


def check_interface(written: ir.Model, given: ir.Model, what: str = "model") -> None:
    """Check that a model has the inputs and outputs of the one it was made from.

    Args:
        written: The model that was made.
        given: The model that it was made from. Initializers among its inputs are defaults, not inputs.
        what: What `written` is, for the message.

    Raises:
        ModelError: It has not. This is a fault of calibrant.
    """
    for kind, found, wanted in (
        ("inputs", _inputs(written), _inputs(given)),
        ("outputs", _ports(written.graph.outputs), _ports(given.graph.outputs)),
    ):
        if not _agree(found, wanted):
            raise ModelError(
                f"A fault in calibrant: the {what} has the {kind} {_listed(found)}, and the float model has "
                f"{_listed(wanted)}. Nothing was written. Please report this with the model, or its graph without "
                "weights."
            )


def _inputs(model: ir.Model) -> list[_Port]:
    return _ports([v for v in model.graph.inputs if not v.is_initializer()])


def _ports(values: Iterable[ir.Value]) -> list[_Port]:
    return [(v.name or "", v.dtype) for v in values]


def _agree(found: list[_Port], wanted: list[_Port]) -> bool:
    return len(found) == len(wanted) and all(
        a == b and (s is None or t is None or s == t)
        for (a, s), (b, t) in zip(found, wanted, strict=True)
    )


def _listed(ports: list[_Port]) -> str:
    return ", ".join(f"'{name}' ({_typed(dtype)})" for name, dtype in ports) or "none"


def _typed(dtype: ir.DataType | None) -> str:
    return dtype.name.lower() if dtype is not None else "of unknown type"
