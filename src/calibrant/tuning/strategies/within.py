"""Find the assignment of least error that costs no more than a limit: the best there is within a budget.

1. Layers are measured alone, without labels, on a few samples.
2. The assignment of least predicted error within the limit is solved for exactly (`tuning.cheapest`), and evaluated.
3. Where costs are measured of the whole model (latency) and the trial takes more than the limit, the limit that is solved for
   shrinks by what it was over, and again, while evaluations are left.
4. Where training is asked for, the best is trained.
"""

from __future__ import annotations

from typing import Any

from calibrant.tuning.cheapest import least_cost, nearest_below
from calibrant.tuning.driver import Strategy
from calibrant.tuning.menu import Menu
from calibrant.tuning.questions import Found, Question
from calibrant.tuning.strategies.assigning import Search

__all__ = ["within"]


def within(
    menu: Menu, limit: float, allowed: float, evaluations: int, *, trains: bool = False
) -> Strategy[Question, Any, Found]:
    """Return the best assignment within a limit of cost, with all that was tried.

    Args:
        menu: What layers may be.
        limit: What an assignment may cost, in units of the menu.
        allowed: Loss of score that is allowed beside that; inf for any.
        evaluations: Full evaluations, at most; 1 or more.
        trains: The best is trained.
    """
    lowest = least_cost(menu)
    search = Search(menu, allowed, evaluations, lowest)
    if menu.cost_of(lowest) > limit:
        yield from search.evaluate(lowest, "cheapest")
        return search.found(
            f"The cheapest assignment costs {menu.cost_of(lowest):.6g}, more than the limit of {limit:.6g}.",
            within=limit,
        )
    yield from search.measure()
    aim = limit
    while search.left:
        assignment = nearest_below(menu, search.errors, aim * (1 + 2e-5)) or lowest
        if any(t.assignment == assignment for t in search.trials):
            break
        trial = yield from search.evaluate(assignment, "within the limit")
        if trial.cost <= limit * (1 + 1e-9):
            break
        aim = min(aim, menu.cost_of(assignment)) * min(0.98, limit / trial.cost)
    fits = [t for t in search.trials if t.cost <= limit * (1 + 1e-9)]
    if trains and fits and search.left:
        best = min(fits, key=lambda t: (t.reached.loss, t.cost))
        yield from search.train(best.assignment, "within the limit, trained")
    return search.found(
        f"The best within the limit of {limit:.6g}, as far as errors of single layers say it."
        if fits
        else f"Nothing that was tried stays within the limit of {limit:.6g}.",
        within=limit,
    )
