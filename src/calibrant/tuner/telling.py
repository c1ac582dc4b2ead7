"""Which samples tell trials apart: those in which some trial scored other than the float model.

A model between two that were tried differs from the float model in few samples, mostly the same ones: those whose answer is
near to being another. So a look at these says at a small part of an evaluation's cost whether it is worth one. Each evaluation
adds the samples that it finds.

    loss of all = (samples that tell trials apart / all samples) * mean loss of those that were looked at
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["SHARE", "telling"]

#: Samples that are looked at, at most, as a share of all.
SHARE = 0.25


def telling(losses: Sequence[npt.NDArray[np.float64]], count: int) -> tuple[list[int], float]:
    """Return which samples to look at, in rising order, and what part of all samples they stand for.

    Where too many tell trials apart, the first of them are taken: samples are in random order.

    Args:
        losses: What each trial lost in each sample; one that ended early is shorter.
        count: Samples in all.

    Example:
        >>> telling([np.array([0.0, 1, 0, 0, 0, 0, 0, 0]), np.array([0.0, 0, 0, -1])], 8)
        ([1, 3], 0.25)
        >>> telling([np.array([1.0, 1, 1, 1, 1, 1, 0, 0])], 8)
        ([0, 1], 0.75)
    """
    differs = np.zeros(count, dtype=bool)
    for mine in losses:
        differs[: len(mine)] |= mine[:count] != 0
    found = np.flatnonzero(differs)
    most = max(1, int(SHARE * count))
    return [int(i) for i in found[:most]], len(found) / count if count else 0.0
