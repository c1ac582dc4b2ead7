"""Which samples tell trials apart: those in which some trial scored other than the float model, and those that nearly do.

A model between two that were tried differs from the float model in few samples, mostly the same ones: those whose answer is
near to being another. So a look at these says at a small part of an evaluation's cost whether it is worth one. Each evaluation
adds the samples that it finds.

Where a metric says how far the float model is from another answer in each sample (its margin), those are looked at, too, that are as
near to one as the furthest that changed in a trial: a model that is no worse changes its answer among these.

    loss of all = (samples that tell trials apart / all samples) * mean loss of those that were looked at
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["NEAR", "SHARE", "telling"]

Floats = npt.NDArray[np.float64]

#: Samples that are looked at, at most, as a share of all.
SHARE = 0.25

#: The same, those among it that only nearly tell them apart.
NEAR = 0.125


def telling(
    losses: Sequence[Floats], count: int, margins: Floats | None = None
) -> tuple[list[int], float]:
    """Return which samples to look at, in rising order, and what part of all samples they stand for.

    Where too many tell trials apart, the first of them are taken: samples are in random order. Of those that nearly do, the nearest are
    taken.

    Args:
        losses: What each trial lost in each sample; one that ended early is shorter.
        count: Samples in all.
        margins: How far the float model is from another answer in each sample, or in the first of them; None where nobody knows.

    Example:
        >>> telling([np.array([0.0, 1, 0, 0, 0, 0, 0, 0]), np.array([0.0, 0, 0, -1])], 8)
        ([1, 3], 0.25)
        >>> telling([np.array([1.0, 1, 1, 1, 1, 1, 0, 0])], 8)
        ([0, 1], 0.75)
        >>> telling([np.array([1.0, 0, 0, 0, 0, 0, 0, 0])], 8, np.array([0.2, 0.3, 0.1, 0.4]))
        ([0], 0.125)
        >>> telling([np.array([1.0] + 23 * [0])], 24, np.array([0.2, 0.3, 0.1, 0.4, 0.15]))
        ([0, 2, 4], 0.125)
    """
    differs = np.zeros(count, dtype=bool)
    for mine in losses:
        differs[: len(mine)] |= mine[:count] != 0
    found = np.flatnonzero(differs)
    most = max(1, int(SHARE * count))
    if margins is not None:
        room = max(0, int(NEAR * count) - len(found))
        found = np.union1d(found, _near(margins, differs)[:room])
    return [int(i) for i in found[:most]], len(found) / count if count else 0.0


def _near(margins: Floats, differs: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return samples that did not change and are as near to another answer as the furthest that did, the nearest first."""
    differs = differs[: len(margins)]
    furthest = margins[differs].max(initial=-np.inf)
    near = np.flatnonzero(~differs & (margins <= furthest))
    return near[np.argsort(margins[near], kind="stable")]
