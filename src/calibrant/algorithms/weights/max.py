"""The largest magnitude, in the same number of steps on either side.

    bound = max |w|;  scale = bound / (2**(bits-1) - 1);  zero_point = 0

So the lowest integer of the grid is never used, other than by `arq`.

Source: docs/explanation/grid.md, "From a range to a grid".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibrant.algorithms import register_weight
from calibrant.algorithms._weight import rows
from calibrant.algorithms.options import options
from calibrant.numerics import QuantParams, QuantSpec


@register_weight("max")
@options
class Max:
    """Cover every weight, with a grid that is the same on either side of zero."""

    def __call__(self, values: npt.ArrayLike, spec: QuantSpec) -> QuantParams:
        """Return a scale for the tensor, or for each index of `spec.axis`."""
        w = rows(values, spec)  # (channels, rest), or (rest,) per tensor
        bound = np.abs(w).max(axis=-1)
        return QuantParams.from_range(-bound, bound, spec)
