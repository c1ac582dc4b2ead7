"""Boxes as rows, each with the index of its sample: COCO's form of references, made one array a sample.

    rows (boxes, 6): sample, class, x1, y1, x2, y2   ->   (samples, most, 5): class, x1, y1, x2, y2

`most` is the largest number of boxes of a sample; behind the last box of one stand rows of -1.
"""

from __future__ import annotations

import numpy as np

from calibrant.data.sources.columns import ArrayColumn, Column
from calibrant.errors import DataError

__all__ = ["NAME", "boxes_by_sample"]

#: Name of an array that may hold such rows.
NAME = "boxes"

_ROW = 6


def boxes_by_sample(column: Column, samples: int, source: str) -> Column:
    """Return boxes sample by sample, where they are rows; other columns as they are.

    Args:
        column: What the data has under the name `boxes`.
        samples: How many samples it has.
        source: For messages.

    Raises:
        DataError: A row belongs to no sample.
    """
    rows = column.read(0, column.samples)
    if rows.ndim != 2 or rows.shape[1] != _ROW or rows.dtype.kind not in "iuf":
        return column
    index = rows[:, 0].astype(np.int64)
    wrong = (index != rows[:, 0]) | (index < 0) | (index >= samples)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{source}: row {first} of '{NAME}' belongs to sample {rows[first, 0]:g}; samples run from 0 to {samples - 1}. A row "
            "is sample, class, x1, y1, x2, y2."
        )
    counts = np.bincount(index, minlength=samples)
    found = np.full((samples, max(1, int(counts.max())), _ROW - 1), -1, np.float64)
    order = np.argsort(index, kind="stable")
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    found[index[order], place] = rows[order, 1:]
    return ArrayColumn(found)
