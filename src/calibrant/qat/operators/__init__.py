"""Operators of ONNX as functions of torch, one a row: `OPERATORS` has them by name."""

from calibrant.qat.operators import (
    activations,
    arithmetic,
    conv,
    normalize,
    pool,
    recurrent,
    reduce,
    resize,
    scatter,
    shape,
)
from calibrant.qat.operators.registry import OPERATORS, Operator

__all__ = [
    "OPERATORS",
    "Operator",
    "activations",
    "arithmetic",
    "conv",
    "normalize",
    "pool",
    "recurrent",
    "reduce",
    "resize",
    "scatter",
    "shape",
]
