"""What a learned rounding is given: one layer as a matrix product, and what it should answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.numerics.dtype import IntType

__all__ = ["RoundingProblem"]

Array = npt.NDArray[Any]  # float32

#: Rows whose errors are taken at once.
_ROWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class RoundingProblem:
    """One layer, whose weight is to be rounded to its grid.

    The layer answers  f(x @ (steps * scale).T + bias),  where `steps` (groups, out, K) are whole numbers of
    the grid and f is the activation function that follows; it should answer y.

    Args:
        x: (groups, rows, K) what the quantized model gives it.
        y: (groups, rows, out) what the float model makes of it, behind the activation function.
        weight: (groups, out, K) the float weight.
        scale: Of the same shape [units of the weight per step].
        bias: (groups, 1, out).
        dtype: The grid: `qmin` and `qmax`.
        function: f: values -> (values, slope), each of the shape of the values or one that broadcasts.
    """

    x: Array
    y: Array
    weight: Array
    scale: Array
    bias: Array
    dtype: IntType
    function: Callable[[Array], tuple[Array, Array]]

    def errors(self, steps: Array) -> npt.NDArray[np.float64]:
        """Mean squared error of each output channel, (groups, out), for some steps [y squared]."""
        total = np.zeros(self.weight.shape[:2])
        for start in range(0, self.x.shape[1], _ROWS):
            part = slice(start, start + _ROWS)
            z = self.x[:, part] @ (steps * self.scale).transpose(0, 2, 1) + self.bias
            d = self.function(z)[0] - self.y[:, part]
            total += np.einsum("gro,gro->go", d, d, dtype=np.float64)
        mean: npt.NDArray[np.float64] = total / self.y.shape[1]
        return mean
