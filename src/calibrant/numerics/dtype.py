"""Integer grids.

A grid is named by its bit width alone: it is signed, [-2**(bits-1), 2**(bits-1) - 1]. A runtime that
stores unsigned numbers gets the same grid moved by 2**(bits-1); that is a matter of storage, decided
when the model is written (`emit.qdq`), so nothing before it has two cases.

Source: docs/explanation/grid.md (grids of 4, 6, 7, 8 and 16 bits).
"""

from __future__ import annotations

from dataclasses import dataclass

from calibrant.errors import ConfigValueError

__all__ = ["INT_BITS", "IntType"]

#: Bit widths a grid may have.
INT_BITS = (4, 6, 7, 8, 16)


@dataclass(frozen=True, slots=True)
class IntType:
    """A signed integer grid.

    Args:
        bits: 4, 6, 7, 8 or 16.
        narrow: Leave out the lowest value, so that the grid is symmetric: [-127, 127] for 8 bits.

    Raises:
        ConfigValueError: The bit width is not one of the five.

    Example:
        >>> IntType(8).qmin, IntType(8).qmax, IntType(8, narrow=True).qmin
        (-128, 127, -127)
    """

    bits: int = 8
    narrow: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in INT_BITS:
            raise ConfigValueError(
                f"bits is {self.bits!r}; it is one of {', '.join(map(str, INT_BITS))}."
            )

    @property
    def qmin(self) -> int:
        """Lowest value of the grid."""
        return -(1 << (self.bits - 1)) + int(self.narrow)

    @property
    def qmax(self) -> int:
        """Highest value of the grid."""
        return (1 << (self.bits - 1)) - 1

    @property
    def name(self) -> str:
        """Name as used in plans and reports, such as `int8`."""
        return f"int{self.bits}"
