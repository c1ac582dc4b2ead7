"""Give layers back to what costs less, those first that save most for the error they bring, while the requirement is met.

One layer, then two, then four; half as many where that was too much; a single layer that was too much stays. Each step is looked
at (`Search.hopeless`), and what all steps together lead to is evaluated. Where that fails, it has made looks surer, and the steps
begin again, with fewer of them. What the way up (`strategies.climb`) would end in by now is taken instead where it costs less, and
where no step is left.
"""

from __future__ import annotations

from typing import Any

from calibrant.tuning.driver import Strategy
from calibrant.tuning.menu import Assignment
from calibrant.tuning.questions import Question
from calibrant.tuning.strategies.assigning import Search, changed
from calibrant.tuning.strategies.climb import climb

__all__ = ["give_back", "steps_back"]


def give_back(search: Search) -> Strategy[Question, Any, None]:
    """Make cheaper what meets the requirement: from the best, many at once, or by another way up that ends below it."""
    failures = 0
    while search.pays:
        best = search.best
        assert best is not None
        steps = yield from steps_back(search, best.assignment)
        found = changed(best.assignment, steps[: max(1, len(steps) >> failures)])
        other = None if failures and steps else (yield from climb(search))
        if other is not None:
            other = changed(other, (yield from steps_back(search, other)))
            if search.menu.cost_of(other) < search.menu.cost_of(found):
                found = other
        if search.menu.cost_of(found) >= search.menu.cost_of(best.assignment):
            return
        yield from search.error(found)
        trial = yield from search.evaluate(found, "give back")
        failures = 0 if search.enough(trial.reached) else failures + 1


def steps_back(
    search: Search, start: Assignment
) -> Strategy[Question, Any, list[tuple[int, str]]]:
    """Return steps from an assignment that together lose no more than allowed, as far as looks say it; one where they say nothing."""
    taken: list[tuple[int, str]] = []
    stays: set[int] = set()
    step = 1
    while moves := search.moves(changed(start, taken), stays):
        more = moves[:step]
        assignment = changed(start, [*taken, *more])
        too_much = search.fails_for_sure(assignment)
        if not too_much:
            hopeless = yield from search.hopeless(assignment)
            if hopeless is None:
                return [*taken, *more[:1]]
            too_much = hopeless
        if not too_much:
            taken += more
            step *= 2
        elif len(more) > 1:
            step = len(more) // 2
        else:
            stays.add(more[0][0])
    return taken
