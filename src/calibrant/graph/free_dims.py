"""Dimensions that are written as a number and mean "any length".

ONNX leaves a dimension free by giving it a name, or nothing at all. Some exporters write a number instead:

    -1      PaddlePaddle and others that follow NumPy's reshape
     0      older MXNet exports

No array has -1 entries along an axis, and nothing can be computed of an array with none. Runtimes take -1 for
free. Here each becomes a dimension without a name, in inputs, outputs and all values between, bodies included.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["free_unknown_dims", "has_unknown_dims"]


def has_unknown_dims(model: ir.Model) -> bool:
    """Tell whether a dimension of a model is a number below 1."""
    return any(True for _ in _marked(model))


def free_unknown_dims(model: ir.Model) -> None:
    """Make every dimension that is a number below 1 a free one. The model is edited in place.

    Example:
        A value of shape `[-1, 3, 10, 10]` gets the shape `[?, 3, 10, 10]`.
    """
    for value in list(_marked(model)):
        assert value.shape is not None
        value.shape = ir.Shape([None if _is_unknown(d) else d for d in value.shape])


def _marked(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the values with such a dimension. Constants have the shape of their numbers and are left out."""
    for graph in model.graphs():
        computed = (v for node in graph for v in node.outputs)
        for value in (*graph.inputs, *graph.outputs, *computed):
            if value.shape is None or value.const_value is not None:
                continue
            if any(_is_unknown(d) for d in value.shape):
                yield value


def _is_unknown(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, int) and dim < 1
