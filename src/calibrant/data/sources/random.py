"""Random values in the place of data: to see whether a model goes through, and how fast it is.

Floats are normal with mean 0 and deviation 1, integers and booleans 0 or 1 (which any table of embeddings
has). Dimensions that the model leaves open are 1. The seed is fixed.

Source: horizon.md 3.1 (`skip`, check mode).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
        samples: How many; rounded up to whole batches where the model fixes its batch.

    Raises:
        DataError: An input holds neither numbers nor truths.
    """
    rng = np.random.default_rng(0)
    fixed = next(
        (i.shape[0] for i in inputs if i.shape and isinstance(i.shape[0], int) and i.shape[0] > 1),
        1,
    )
    count = -(-samples // fixed) * fixed
    found: dict[str, AnyArray] = {}
    for info in inputs:
        inner = [d if isinstance(d, int) else 1 for d in info.shape[1:]]
        shape = (count, *inner) if info.shape else (count,)
        if info.dtype.kind == "f":
            found[info.name] = rng.standard_normal(shape).astype(info.dtype)
        elif info.dtype.kind in "iub":
            found[info.name] = rng.integers(0, 2, shape).astype(info.dtype)
        else:
            raise DataError(
                f"Input '{info.name}' is of type {info.dtype}, for which there are no random values."
            )
    return found
