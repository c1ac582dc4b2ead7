"""How much score is lost at how much output error: learned from the trials of one model.

    loss = a * error**b,    b = 3/4 until two trials say otherwise

Error is energy of the error over energy of the signal, so its square root is the size of the error. What is decided by
margins (the largest of several scores) changes its mind for a share of samples that grows with that size, some of them for
the better; measures that are smooth in the outputs have b = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Point", "error_for", "loss_at"]

#: The exponent before anything is known, and between which values it is believed.
EXPONENT, EXPONENTS = 0.75, (0.25, 2.0)


@dataclass(frozen=True, slots=True)
class Point:
    """One trial: its output error, and the score it lost against the float model."""

    error: float
    loss: float


def error_for(points: Sequence[Point], loss: float, *, proportional: bool = False) -> float | None:
    """Return the error at which so much is lost; None where no trial has lost anything.

    Args:
        points: What trials have shown.
        proportional: The loss is an energy of the same outputs' error: b = 1.
        loss: Of score, in its own units; 0 or less asks for an error at which a tenth of the least loss so far is left.

    Example:
        >>> round(error_for([Point(0.04, 0.2)], 0.025), 6)
        0.0025
        >>> round(error_for([Point(0.04, 0.2), Point(0.02, 0.1)], 0.05), 6)
        0.01
    """
    known = _telling(points)
    if not known:
        return None
    wanted = loss if loss > 0 else min(p.loss for p in known) / 10
    near, exponent = _law(
        sorted(known, key=lambda p: abs(math.log(p.loss / wanted))), proportional
    )
    return float(near.error * (wanted / near.loss) ** (1 / exponent))


def loss_at(points: Sequence[Point], error: float, *, proportional: bool = False) -> float | None:
    """Return the loss that is expected at an error; None where no trial has lost anything.

    Args:
        points: What trials have shown.
        error: Energy of the error over energy of the signal.
        proportional: As for `error_for`.

    Example:
        >>> round(loss_at([Point(0.04, 0.2), Point(0.02, 0.1)], 0.01), 6)
        0.05
    """
    known = _telling(points)
    if not known:
        return None
    if error <= 0:
        return 0.0
    near, exponent = _law(
        sorted(known, key=lambda p: abs(math.log(p.error / error))), proportional
    )
    return float(near.loss * (error / near.error) ** exponent)


def _telling(points: Sequence[Point]) -> list[Point]:
    """Return the trials that have lost something."""
    return [p for p in points if 0 < p.error < math.inf and 0 < p.loss < math.inf]


def _law(known: Sequence[Point], proportional: bool) -> tuple[Point, float]:
    """Return the trial that a law goes through, and its exponent, from trials of which the nearest come first."""
    near = known[0]
    if proportional:
        return near, 1.0
    other = next((p for p in known if p.error != near.error), None)
    if other is None:
        return near, EXPONENT
    slope = math.log(other.loss / near.loss) / math.log(other.error / near.error)
    return near, min(max(slope, EXPONENTS[0]), EXPONENTS[1])
