"""How large the tensors of a model are, by what it says of its shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from calibrant.graph.values import values_by_name

__all__ = ["values_a_sample"]


def values_a_sample(model: ir.Model, tensors: Sequence[str], batch: int) -> float | None:
    """Return how many values the tensors have for each sample; None where the model does not say."""
    values, total = values_by_name(model.graph), 0.0
    for tensor in tensors:
        shape = values[tensor].shape
        if shape is None or not len(shape) or not all(isinstance(d, int) for d in shape[1:]):
            return None
        first = shape[0] if isinstance(shape[0], int) else batch
        total += first * math.prod(int(d) for d in shape[1:] if isinstance(d, int)) / max(1, batch)
    return total
