"""Random values in the place of data: to see whether a model goes through, and how fast it is.

Floats are normal with mean 0 and deviation 1, integers and booleans 0 or 1 (which any table of embeddings
has). Dimensions that the model leaves open are 1. The seed is fixed.

Source: docs/reference/horizon-configurations.md (`skip`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibrant.data.axes import rows_of, sample_axis
from calibrant.data.batch import AnyArray, InputInfo
from calibrant.errors import DataError

__all__ = ["RANDOM_SAMPLES", "random_arrays"]

#: So many samples, unless more batches are asked for.
RANDOM_SAMPLES = 8


def random_arrays(
    inputs: Sequence[InputInfo], samples: int = RANDOM_SAMPLES
) -> dict[str, AnyArray]:
    """Return random samples for every input.

    Args:
        inputs: The model's inputs.
        samples: How many; rounded up to whole batches where the model fixes its batch. Where inputs need not share
            an axis of samples, so many feeds; of an input without dimensions one number.

    Raises:
        DataError: An input holds neither numbers nor truths.
    """
    rng = np.random.default_rng(0)
    axis = sample_axis(inputs)
    count = -(-samples // (axis.fixed or 1)) * (axis.fixed or 1)
    found: dict[str, AnyArray] = {}
    for row in rows_of(inputs, by_feed=axis.by_feed):
        inner = [d if isinstance(d, int) else 1 for d in row.dims[1:]]
        shape = () if row.is_number else (count, *inner)
        if row.dtype.kind == "f":
            found[row.name] = np.asarray(rng.standard_normal(shape)).astype(row.dtype)
        elif row.dtype.kind in "iub":
            found[row.name] = np.asarray(rng.integers(0, 2, shape)).astype(row.dtype)
        else:
            raise DataError(
                f"Input '{row.name}' is of type {row.dtype}, for which there are no random values."
            )
    return found
