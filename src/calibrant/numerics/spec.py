"""What is asked of a quantizer, before any data has been seen."""

from __future__ import annotations

from dataclasses import dataclass

from calibrant.errors import ConfigValueError
from calibrant.numerics.dtype import IntType

__all__ = ["QuantSpec"]


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """The grid, the symmetry and the granularity of one quantizer.

    Args:
        bits: Width of the grid, one of 4, 6, 7, 8, 16.
        symmetric: The zero point is 0. Otherwise it is chosen so that the range fits the data.
        axis: Axis that has one scale for each index; None for one scale in all.
        narrow: Leave out the lowest value of the grid ([-127, 127] for 8 bits).
        tiny_to_one: A scale below float32 epsilon becomes 1, as in vendors' kernels, so that what it is the scale
            of is rounded to 0. Otherwise a scale is as small as the data is (`params.usable_scale`).

    Raises:
        ConfigValueError: An unknown bit width, or a negative axis.

    Example:
        >>> QuantSpec(bits=8, symmetric=True, axis=0).dtype.qmax
        127
    """

    bits: int = 8
    symmetric: bool = False
    axis: int | None = None
    narrow: bool = False
    tiny_to_one: bool = False

    def __post_init__(self) -> None:
        IntType(self.bits, self.narrow)
        if self.axis is not None and self.axis < 0:
            raise ConfigValueError(f"axis is {self.axis}; it counts from 0, or is None.")

    @property
    def dtype(self) -> IntType:
        """The integer grid."""
        return IntType(self.bits, self.narrow)
