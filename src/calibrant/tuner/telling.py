"""Which samples tell trials apart: those in which some trial scored other than the float model.

A model between two that were tried differs from the float model in few samples, mostly the same ones: those whose answer is
near to being another. So a look at these says at a small part of an evaluation's cost whether it is worth one. Each evaluation
adds the samples that it finds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["SHARE", "telling"]

#: Samples that are looked at, at most, as a share of all; a trial that differs in more says nothing of single samples.
SHARE = 0.25


def telling(losses: Sequence[npt.NDArray[np.float64]], count: int) -> list[int]:
    """Return the indices of samples that tell trials apart, in rising order.

    Args:
        losses: What each trial lost in each sample; one that ended early is shorter.
        count: Samples in all.

    Example:
        >>> telling([np.array([0.0, 1, 0, 0, 0, 0, 0, 0]), np.array([0.0, 0, 0, -1])], 8)
        [1, 3]
        >>> telling([np.array([1.0, 1, 1, 1])], 4)
        []
    """
    often = np.zeros(count, dtype=int)
    for mine in losses:
        differs = mine[:count] != 0
        if 0 < differs.sum() <= SHARE * len(differs):
            often[: len(differs)] += differs
    most = int(SHARE * count)
    found = [int(i) for i in np.argsort(-often, kind="stable")[:most] if often[i]]
    return sorted(found)
