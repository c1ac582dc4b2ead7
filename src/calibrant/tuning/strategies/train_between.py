"""Train once more where the cheapest assignment was trained and that was not enough: what lies between it and the best one.

Training brought the loss of the cheapest assignment from l to k l. What is trained next is the cheapest assignment whose loss
without training is expected to be at most the allowed one over k.
"""

from __future__ import annotations

import math
from typing import Any

from calibrant.tuning.driver import Strategy
from calibrant.tuning.menu import Assignment
from calibrant.tuning.questions import Question
from calibrant.tuning.strategies.assigning import Search

__all__ = ["ENOUGH", "train_between"]

#: Why a search ends with what was raised and trained.
ENOUGH = "With fewer layers raised than without training, and trained, the requirement is met."

#: Shares of the error that would be allowed, which are aimed at one after another.
_AIMS = (1.0, 0.7, 0.5)


def train_between(search: Search) -> Strategy[Question, Any, bool]:
    """Train an assignment that costs less than the best, and return whether it meets the requirement."""
    best = search.best
    if best is None or best.trained or not search.trained or not search.left:
        return False
    found = yield from _between(search)
    if found is None:
        return False
    trial = yield from search.train(found, "raised less, trained")
    return trial is not None and search.enough(trial.reached)


def _between(search: Search) -> Strategy[Question, Any, Assignment | None]:
    """Return the assignment that is worth training; None where there is none."""
    best, after = search.best, search.trained[0][1]
    assert best is not None
    before = [t for t in search.trials if t.assignment == after.assignment]
    if not before or not len(search.errors) or before[0].reached.loss <= 0:
        return None
    kept = after.reached.loss / before[0].reached.loss
    if not 0 < kept < 1:
        return None
    error = search.error_for(search.limit / kept)
    if error is None or not math.isfinite(error):
        return None
    below = search.menu.cost_of(best.assignment)
    for aim in _AIMS:
        found = yield from search.fitting(aim * error, math.inf)
        if found is None or not search.menu.cost_of(found) < below:
            continue
        loss = search.expected(found)
        if found != after.assignment and loss is not None and kept * loss <= search.limit:
            return found
    return None
