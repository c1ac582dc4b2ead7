"""Operators of ONNX as functions of torch: one function an operator, and how it is declared.

    @operator("Gemm")
    def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0): ...

Positional arguments are the inputs of the node, those that have a default may be missing. Keyword arguments are its
attributes, with ONNX's defaults; an attribute that the function does not name is refused. `opset`, where it is named,
is the version of the operator set. Inputs in `static` (shapes, axes, bounds) are handed over as numbers where the
model has them as constants: a tuple of ints or floats, or one number for a scalar.

Source: ONNX, Operator Schemas, operator sets 13 and later.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["OPERATORS", "Operator", "floats", "ints", "operator"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Args:
        name: Its name in ONNX.
        function: What computes it.
        inputs: How many inputs it has at most; None for any number.
        required: How many it has at least.
        attributes: Names of its attributes.
        static: Indices of inputs that are handed over as numbers where they are constant.
        wants_opset: The function is told the operator set.
        several: It has several outputs: the function returns a tuple.
        wants_outputs: The function is told how many outputs the node has.
    """

    name: str
    function: Callable[..., Any]
    inputs: int | None
    required: int
    attributes: frozenset[str]
    static: frozenset[int]
    wants_opset: bool
    several: bool
    wants_outputs: bool


OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str, static: Iterable[int] = (), several: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the function that follows as these operators."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(function).parameters.values()
        inputs = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        keys = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        for name in names:
            OPERATORS[name] = Operator(
                name,
                function,
                None if variadic else len(inputs),
                sum(p.default is p.empty for p in inputs),
                frozenset(keys - {"opset", "outputs"}),
                frozenset(static),
                "opset" in keys,
                several,
                "outputs" in keys,
            )
        return function

    return declare


def ints(value: Any) -> tuple[int, ...]:
    """Return numbers that a model gives as a constant, or works out while it runs."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(value),)


def floats(value: Any) -> tuple[float, ...]:
    """The same for floats."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(float(v) for v in value) if isinstance(value, tuple | list) else (float(value),)
