"""How large the tensors of a model are, by what it says of its shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from calibrant.graph.values import values_by_name

__all__ = ["affordable_samples", "values_a_sample"]

#: Samples that are fewer where the tensors of all of them have more values than this.
AFFORDABLE_VALUES = 64_000_000


def affordable_samples(
    model: ir.Model, tensors: Sequence[str], batch: int, *, most: int, least: int
) -> int:
    """Return how many samples a look at a model can afford: `most`, fewer of large tensors, but `least`.

    Args:
        model: The model.
        tensors: What is looked at in it.
        batch: Samples in a batch, where its shapes name a number.
        most: Where tensors are small, or the model does not say how large they are.
        least: Where they are large.
    """
    values = values_a_sample(model, tensors, batch)
    many = most if values is None else int(AFFORDABLE_VALUES / max(1.0, values))
    return min(most, max(least, many))


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
