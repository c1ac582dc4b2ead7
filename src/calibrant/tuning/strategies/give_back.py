"""Give layers back to what costs less, those first that save most for the error they bring, while the requirement is met.

One layer, then two, then four; half as many where that was too much; a single layer that was too much stays. Each step is
evaluated. Where scores are known sample by sample, a step is looked at on the samples that tell trials apart instead
(`Glance`), and what all steps together lead to is evaluated: where that fails, it has shown samples that the steps are looked
at on, too, and they begin again, with fewer of them.
"""

from __future__ import annotations

from typing import Any

from calibrant.tuning.driver import Strategy
from calibrant.tuning.menu import Assignment
from calibrant.tuning.questions import Question
from calibrant.tuning.strategies.assigning import Search, changed

__all__ = ["give_back", "give_back_by_glances"]


def give_back(search: Search) -> Strategy[Question, Any, None]:
    """Give layers back, one after the other."""
    stays: set[int] = set()
    step = 1
    while search.left:
        best = search.best
        assert best is not None
        moves = search.moves(best.assignment, stays)
        if not moves:
            return
        taken = moves[:step]
        assignment = changed(best.assignment, taken)
        failed = (
            search.fails_for_sure(assignment)
            or search.predicted(assignment) * search.off_by(search.too_much) > 2 * search.too_much
        )
        if not failed:
            true = yield from search.error(assignment)
            failed = true >= search.too_much
        if not failed:
            trial = yield from search.evaluate(assignment, "give back")
            failed = not search.enough(trial.reached)
        if not failed:
            step *= 2
        elif len(taken) > 1:
            step = len(taken) // 2
        else:
            stays.add(taken[0][0])


def give_back_by_glances(search: Search) -> Strategy[Question, Any, None]:
    """Give layers back, many at once."""
    failures = 0
    while search.left:
        best = search.best
        assert best is not None
        steps = yield from _steps(search, best.assignment)
        if not steps:
            return
        assignment = changed(best.assignment, steps[: max(1, len(steps) >> failures)])
        yield from search.error(assignment)
        trial = yield from search.evaluate(assignment, "give back")
        failures = 0 if search.enough(trial.reached) else failures + 1


def _steps(search: Search, start: Assignment) -> Strategy[Question, Any, list[tuple[int, str]]]:
    """Return steps that together lose no more than allowed, on the samples that tell trials apart."""
    taken: list[tuple[int, str]] = []
    stays: set[int] = set()
    step = 1
    while moves := search.moves(changed(start, taken), stays):
        more = moves[:step]
        assignment = changed(start, [*taken, *more])
        too_much = search.fails_for_sure(assignment)
        if not too_much:
            too_much = bool((yield from search.hopeless(assignment)))
        if not too_much:
            taken += more
            step *= 2
        elif len(more) > 1:
            step = len(more) // 2
        else:
            stays.add(more[0][0])
    return taken
