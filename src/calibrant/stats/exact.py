"""The values themselves behind the interface of a histogram.

For small or discrete data, and for results equal to a vendor's to the last digit: each value is a bin of
no width. Memory grows with the number of distinct values (8 bytes each).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.stats.histogram import BIN_SHIFT, Counts, Histogram, merge_counts, narrow

__all__ = ["ExactValues"]


@dataclass(frozen=True, slots=True, eq=False)
class ExactValues:
    """Every distinct value seen and how often, sorted, so that the order of merging leaves no trace.

    Args:
        values: (values,) float32, ascending, each once, finite, without negative zeros.
        counts: (values,) above 0: uint32, int64 where one is too large for that.
    """

    values: npt.NDArray[np.float32]
    counts: Counts

    @classmethod
    def of(cls, *arrays: npt.NDArray[np.float32]) -> ExactValues:
        """Sort arrays of finite values into one."""
        joined = np.concatenate([np.empty(0, dtype=np.float32), *arrays])
        values, counts = np.unique(joined + np.float32(0), return_counts=True)  # -0.0 becomes 0.0
        return cls(values, narrow(counts))

    @classmethod
    def of_rows(cls, rows: npt.NDArray[np.float32]) -> list[ExactValues]:
        """Sort each row of finite values (rows, values) by itself."""
        ordered = np.sort(rows + np.float32(0), axis=1)  # -0.0 becomes 0.0
        first = np.ones(rows.shape, dtype=bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        found = []
        for row, new in zip(ordered, first, strict=True):
            starts = np.flatnonzero(new)
            counts = np.diff(starts, append=row.size)
            found.append(cls(row[starts], narrow(counts)))
        return found

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

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
        return ExactValues(*merge_counts(self.values, self.counts, other.values, other.counts))

    def histogram(self, shift: int = BIN_SHIFT) -> Histogram:
        """Return the histogram of the values, of bins that leave out `shift` bits of a pattern."""
        return Histogram.of(self.values, self.counts, shift)

    def edges(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return lower and upper ends, which are the values themselves; two arrays (values,)."""
        values = self.values.astype(np.float64)
        return values, values

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the distinct values in float64, ascending, and how often each occurred."""
        return self.values.astype(np.float64), self.counts.astype(np.int64)

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        if not isinstance(other, ExactValues):
            return NotImplemented
        return np.array_equal(self.values, other.values) and np.array_equal(
            self.counts, other.counts
        )

    __hash__ = None  # type: ignore[assignment]
