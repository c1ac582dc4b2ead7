"""ARQ: the largest magnitude of the weight, or of each output channel.

    bound = max |w|;  levels = 2**(bits-1) where the lowest weight has it, 2**(bits-1) - 1 otherwise
    scale = bound / levels;  zero_point = 0

A channel that is zero has scale 1. The weight of a grouped transposed convolution is brought to (out, …)
by the caller.

Source: docs/explanation/algorithms/weight-arq.md; docs/explanation/grid.md, "From a range to a grid".
"""

from __future__ import annotations

import numpy.typing as npt

from calibrant.algorithms import register_weight
from calibrant.algorithms._weight import rows
from calibrant.algorithms.options import options
from calibrant.numerics import QuantParams, QuantSpec


@register_weight("arq")
@options
class Arq:
    """Cover every weight."""

    def __call__(self, values: npt.ArrayLike, spec: QuantSpec) -> QuantParams:
        """Return a scale for the tensor, or for each index of `spec.axis`."""
        w = rows(values, spec)  # (channels, rest), or (rest,) per tensor
        return QuantParams.from_range(w.min(axis=-1), w.max(axis=-1), spec)
