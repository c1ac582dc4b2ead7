"""What the algorithm of a weight can do beside choosing a scale: keep a few levels, or learn its rounding.

What it can do says so (`algorithms.CodebookAlgorithm`, `algorithms.RoundingAlgorithm`), never its name.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from calibrant import algorithms
from calibrant.algorithms import CodebookAlgorithm, RoundingAlgorithm, WeightAlgorithm
from calibrant.errors import ConfigValueError
from calibrant.recipe import AlgorithmChoice

__all__ = ["codebook", "levels_of", "rounding"]

#: How many levels a weight may keep: an index of 4 or 5 bits says each, in a device and in a record.
LEVEL_COUNTS = (16, 32)


def codebook(choice: AlgorithmChoice | None) -> CodebookAlgorithm | None:
    """Return the algorithm of a choice where it keeps a few levels of the grid, else None."""
    made = _made(choice)
    return made if _does(made, CodebookAlgorithm) else None  # type: ignore[return-value]


def levels_of(
    choice: AlgorithmChoice,
    values: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float64] | None = None,
) -> tuple[int, ...]:
    """Return the levels that the algorithm of a choice, which keeps a few, keeps of a weight.

    Args:
        choice: The algorithm; `codebook` returns it.
        values: The weight on the 8-bit grid, of any shape [steps].
        weights: What an error of one step in each value counts, of that shape; None for 1.

    Raises:
        ConfigValueError: It returns no 16 or 32 values of the grid in ascending order.
    """
    algorithm = codebook(choice)
    assert algorithm is not None
    levels = algorithm.codebook(values, weights)
    rising = all(a < b for a, b in itertools.pairwise(levels))
    if len(levels) not in LEVEL_COUNTS or not rising or levels[0] < -128 or levels[-1] > 127:
        raise ConfigValueError(
            f"Weight algorithm '{choice.name}' keeps the levels {list(levels)}; a weight keeps 16 or 32 "
            "different values in [-128, 127], in ascending order."
        )
    return levels


def rounding(choice: AlgorithmChoice | None) -> RoundingAlgorithm | None:
    """Return the algorithm of a choice where it learns its rounding, else None."""
    made = _made(choice)
    return made if _does(made, RoundingAlgorithm) else None  # type: ignore[return-value]


def _made(choice: AlgorithmChoice | None) -> WeightAlgorithm | None:
    """Make an algorithm; None for `auto`, for scales that are given, and for what nobody has written."""
    if choice is None or choice.name not in algorithms.names()["weight"]:
        return None
    return algorithms.weight(choice.name, **dict(choice.options))


#: (class, protocol) -> whether it has the protocol's methods: asked for every layer of every plan, and slow to find out.
_KNOWN: dict[tuple[type, type], bool] = {}


def _does(made: object, protocol: type) -> bool:
    key = type(made), protocol
    if key not in _KNOWN:
        _KNOWN[key] = isinstance(made, protocol)
    return _KNOWN[key]
