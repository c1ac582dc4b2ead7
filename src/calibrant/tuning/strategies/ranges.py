"""Choose what the recipe leaves open of the ranges: the form of the model, and the algorithm of activations.

The form is decided first, with the first algorithm; the other algorithms are tried on that form. A form that puts
operators into the model has to gain `BALANCE_GAIN_DB`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibrant.tuning.driver import Strategy

__all__ = ["BALANCE_GAIN_DB", "RangeOption", "ranges"]

#: Balancing puts Muls into the model, so it has to make the outputs so much better [dB].
BALANCE_GAIN_DB = 2.0


@dataclass(frozen=True, slots=True)
class RangeOption:
    """One way to set ranges.

    Args:
        form: Name of the form of the model.
        algorithm: Algorithm of the activations that are left open; empty where none is.
    """

    form: str
    algorithm: str

    def __str__(self) -> str:
        return f"{self.algorithm}, {self.form}" if self.algorithm else self.form


def ranges(
    forms: Sequence[tuple[str, int]], algorithms: Sequence[str]
) -> Strategy[RangeOption, float, RangeOption]:
    """Return the best option.

    Args:
        forms: Name of each form, the simplest first, and how many operators it puts into the model.
        algorithms: Algorithms to try; one empty name where nothing is left open.
    """
    first, *others = algorithms
    best, costs, reached = RangeOption(forms[0][0], first), forms[0][1], 0.0
    reached = yield best
    for name, added in forms[1:]:
        option = RangeOption(name, first)
        score = yield option
        if score > reached + (BALANCE_GAIN_DB if added > costs else 0.0):
            best, costs, reached = option, added, score
    form = best.form
    for algorithm in others:
        option = RangeOption(form, algorithm)
        score = yield option
        if score > reached:
            best, reached = option, score
    return best
