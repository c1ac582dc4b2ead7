"""The raw values behind the interface of a histogram.

For small data, and for results equal to a vendor's to the last digit: each value is a bin of no width.
Memory grows with the data (4 bytes a value).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ExactValues"]


@dataclass(frozen=True, slots=True, eq=False)
class ExactValues:
    """Every value seen, sorted, so that the order of merging leaves no trace.

    Args:
        values: (values,) float32, ascending, finite, without negative zeros.
    """

    values: npt.NDArray[np.float32]

    @classmethod
    def of(cls, *arrays: npt.NDArray[np.float32]) -> ExactValues:
        """Sort the finite values of some arrays into one."""
        if not arrays:
            return cls(np.empty(0, dtype=np.float32))
        values = np.concatenate([a[np.isfinite(a)] for a in arrays]) + np.float32(0)  # no -0.0
        values.sort()
        return cls(values)

    @property
    def count(self) -> int:
        """Number of values."""
        return self.values.size

    @property
    def min(self) -> float:
        """Lowest value; inf when there is none."""
        return float(self.values[0]) if self.values.size else np.inf

    @property
    def max(self) -> float:
        """Highest value; -inf when there is none."""
        return float(self.values[-1]) if self.values.size else -np.inf

    def merge(self, other: ExactValues) -> ExactValues:
        """Return the values of both; exact, in any order."""
        return ExactValues.of(self.values, other.values)

    def edges(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return lower and upper ends, which are the values themselves; two arrays (values,)."""
        values = self.values.astype(np.float64)
        return values, values

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the values in float64, ascending, each with a count of 1; two arrays (values,)."""
        return self.values.astype(np.float64), np.ones(self.values.shape, dtype=np.int64)

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        if not isinstance(other, ExactValues):
            return NotImplemented
        return np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]
