"""A range known beforehand, whatever was seen.

For outputs whose range the operator fixes: Softmax and Sigmoid lie in [0, 1], Tanh in [-1, 1].
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from calibrant.algorithms import register_activation
from calibrant.algorithms.options import options
from calibrant.errors import ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats

Finite = Annotated[float, Field(ge=-3e38, le=3e38)]


@register_activation("fixed")
@options
class Fixed:
    """Cover a given range; the statistics may be empty.

    Args:
        low: Lower end, in units of x.
        high: Upper end, above the lower.
    """

    low: Finite = 0.0
    high: Finite = 1.0

    def __post_init__(self) -> None:
        """Check the fields together."""
        if not self.low < self.high:
            raise ConfigValueError(
                f"The fixed range is [{self.low}, {self.high}]; low is below high."
            )

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
        """Return the parameters whose grid covers [low, high]."""
        return QuantParams.from_range(self.low, self.high, spec)
