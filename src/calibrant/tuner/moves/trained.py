"""Training as a move: what it gained, in the form in which moves are told."""

from __future__ import annotations

import math
from collections.abc import Collection

from calibrant.errors import CalibrantError
from calibrant.tuner.moves.tried import TRAINING, MoveTried
from calibrant.tuner.trainer import Budget, Trained

__all__ = ["cannot_be_tried", "move_of", "what_is_trained"]


def what_is_trained(budget: Budget, raised: Collection[str]) -> str:
    """Return what a training does, a clause.

    Example:
        >>> what_is_trained(Budget(minutes=4), ("stem", "head"))
        'trained, 4 minutes, with 2 layers raised'
    """
    layers = "1 layer" if len(raised) == 1 else f"{len(raised)} layers"
    return f"trained, {budget}{f', with {layers} raised' if raised else ''}"


def move_of(found: Trained, budget: Budget, raised: Collection[str], *, beside: bool) -> MoveTried:
    """Return a training as a move.

    Args:
        found: What it came to.
        budget: What it was allowed.
        raised: Layers that are not in their cheapest precision.
        beside: It stands on a recipe with other moves.
    """
    gain = found.gain_db if math.isfinite(found.gain_db) else None
    noise = found.noise_db if math.isfinite(found.noise_db) else None
    told = (
        f"{found.steps} steps ({found.epochs:.3g} epochs of {found.samples} samples, {found.minutes:.2g} minutes), without labels. "
        f"Samples that chose the state: {found.calibrated_db:.2f} dB calibrated, {found.trained_db:.2f} dB trained. "
        f"{found.judges} other samples: {found.reason}"
    )
    return MoveTried(
        TRAINING,
        what_is_trained(budget, raised),
        (),
        gain,
        noise,
        gain if beside else None,
        found.better,
        told,
        "",
    )


def cannot_be_tried(budget: Budget, raised: Collection[str], why: CalibrantError) -> MoveTried:
    """Return a training that could not be had."""
    reason = f"It could not be tried: {why}"
    what = what_is_trained(budget, raised)
    return MoveTried(TRAINING, what, (), None, None, None, False, reason, "")
