"""Find the cheapest assignment of precisions that meets a requirement, with few full evaluations.

1. The cheapest assignment is evaluated: where it does, nothing is left to do. Else moves that keep the cost are tried first
   (`strategies.cheaper_moves`), unless what is known from before meets it. Where that is not enough, and training is asked for,
   the cheapest assignment is trained (`Train`).
2. Layers are measured alone, without labels, on a few samples; what the most precise assignment loses is known from there on.
   Where that is the float model itself, its score is known, too, and costs no evaluation.
3. Up to the requirement: assignments that cost ever more are looked at on few samples, and those with few layers raised
   (`strategies.singles`). The cheapest that loses no more than allowed there, less what it can give up by looks (6), is evaluated; so a few times, since each evaluation makes looks surer.
   Where models cannot be looked at, what their errors let expect stands for a look. Where that was not enough:
4. Down to the requirement: the cheapest assignment within a budget of error is solved for (`tuning.cheapest`), its true
   error measured without labels and the budget corrected by it, and it is evaluated. The budget comes from what trials have
   lost so far (`tuning.loss_curve`), and is at most a quarter of the smallest error that was too large. The last evaluation
   goes to the most precise assignment.
5. Back up, where models cannot be looked at and the best lost something else than its error let expect: between it and the most
   precise assignment that failed, until none is left.
6. Layers are given back (`strategies.give_back`). Steps 5 and 6 end with a quarter of the evaluations that trying each layer alone
   takes, where it is thrifty (`Search.pays`).
7. What was found is run on all samples. Where it loses too much there, looks see from then on what was held out and went wrong; or,
   where models cannot be looked at, more is asked of what the search sees, by as much. It goes on from 3.

What is asked: `Losses` of a precision, the error of an assignment as a whole (`Together`), its loss on few samples (`Glance`), and
its score (`Full`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from calibrant.tuning.cheapest import least_cost
from calibrant.tuning.driver import Strategy
from calibrant.tuning.menu import Assignment, Menu
from calibrant.tuning.questions import Found, Glance, Question
from calibrant.tuning.strategies.assigning import Search, changed
from calibrant.tuning.strategies.cheaper_moves import cheaper_moves
from calibrant.tuning.strategies.climb import climb
from calibrant.tuning.strategies.give_back import give_back, steps_back
from calibrant.tuning.strategies.train_between import ENOUGH, train_between

__all__ = ["auto"]

#: While nothing meets the requirement, an error that was too large is divided by so much at the least.
_STEP = 4.0

#: How near to either end of what is known the next budget may lie, as a share of the way on a logarithmic scale.
_MARGIN = 0.15

#: Why a search ends with the cheapest assignment after all.
MOVED = "The cheapest assignment meets the requirement, with moves that keep the cost."
TRAINED = "The cheapest assignment meets the requirement, after training."

#: How often what looks good enough is evaluated before budgets of error decide.
_CLIMBS = 3

#: A trial gives up so much of what the best costs more than what failed, where its error allows it.
_GAP = 0.35


def auto(
    menu: Menu,
    allowed: float,
    evaluations: int,
    known: Sequence[Assignment] = (),
    *,
    trains: bool = False,
    thrifty: bool = True,
) -> Strategy[Question, Any, Found]:
    """Return the cheapest assignment that meets the requirement, with all that was tried.

    Args:
        menu: What layers may be.
        allowed: Loss of score that is allowed, in its own units.
        evaluations: Full evaluations, at most; 1 or more.
        known: Assignments that met a requirement for another model of the same structure, the cheapest first: one is tried
            early.
        trains: The cheapest assignment is trained before any layer is raised, and where that is not enough, one with fewer layers
            raised than without training.
        thrifty: End where what meets the requirement took a quarter of the evaluations that trying each layer alone takes.
    """
    search = Search(menu, allowed, evaluations, least_cost(menu), thrifty=thrifty)
    known = [a for a in known if a != search.lowest]
    reason = yield from _first(search, known, trains=trains)
    if reason == "" and allowed < 0:
        reason = yield from _above(search)
    elif reason == "":
        yield from search.measure()
        reason = yield from _search(search)
    while search.left and not (yield from search.holds()):
        if trains and not search.trained:
            trains, before, search.wanted = False, search.wanted, math.inf
            yield from search.train(search.lowest, "cheapest, trained")
            if _is_lowest(search):
                reason = TRAINED
                continue
            search.wanted = before
        if not len(search.errors):
            yield from search.measure()
        reason = yield from _search(search)
    if (yield from train_between(search)) and (yield from search.holds()):
        reason = ENOUGH
    return search.found(reason)


def _first(
    search: Search, known: Sequence[Assignment], *, trains: bool
) -> Strategy[Question, Any, str]:
    """Evaluate the cheapest assignment; return why the search ends with it, or nothing."""
    yield from search.evaluate(search.lowest, "cheapest")
    if search.best is not None and search.best.reached.cost is not None:
        yield from search.beside_float()
    if search.best is not None:
        if search.best.reached.free:
            return "Nothing that was measured is faster than the float model."
        return "The cheapest assignment meets the requirement."
    alone = np.isfinite(search.menu.cost).sum() == len(search.menu.layers)
    if alone and not trains:
        return "There is one assignment only."
    if not search.left:
        return search.spent
    if search.allowed >= 0:
        yield from _remember(search, known)
        if search.best is None and not alone:
            yield from cheaper_moves(search)
        if trains and search.left and not _is_lowest(search):
            yield from search.train(search.lowest, "cheapest, trained")
    if _is_lowest(search):
        assert search.best is not None
        return TRAINED if search.best.trained else MOVED
    return "There is one assignment only." if alone else ""


def _is_lowest(search: Search) -> bool:
    """Whether the cheapest assignment meets the requirement."""
    return search.best is not None and search.best.assignment == search.lowest


def _search(search: Search) -> Strategy[Question, Any, str]:
    """Find an assignment that meets the requirement, and give up what it does not need; return why the search ends."""
    yield from _reach(search)
    if search.best is None:
        if any(t.assignment == search.top for t in search.trials):
            return "The most precise assignment does not meet the requirement."
        return search.spent
    looks: float | None = yield Glance(search.best.assignment)
    yield from _between(search, started=looks is not None)
    yield from give_back(search)
    if search.best.reached.free:
        return "Nothing but the float model itself was found to meet the requirement."
    if not search.left:
        return search.spent
    if not search.pays:
        return "As many evaluations are spent as a quarter of what trying each layer alone takes; max_trials allows more."
    return (
        "Nothing more can be given up: what is cheaper failed, or is further off than what failed."
    )


def _above(search: Search) -> Strategy[Question, Any, str]:
    """Where the float model itself misses the requirement, try the most precise assignment, and leave it there."""
    widest = search.menu.widest
    if search.left and all(t.assignment != widest for t in search.trials):
        yield from search.evaluate(widest, "most precise")
    return "The requirement is above what the float model reaches."


def _remember(search: Search, known: Sequence[Assignment]) -> Strategy[Question, Any, None]:
    """Try what another model of the same structure ended with."""
    for assignment in known:
        if search.left > 1 and all(t.assignment != assignment for t in search.trials):
            yield from search.error(assignment)
            yield from search.evaluate(assignment, "known from before")
            return


def _reach(search: Search) -> Strategy[Question, Any, None]:
    """Find an assignment that meets the requirement."""
    tried = {t.assignment for t in search.trials}
    if all(p == "float32" for p in search.top) and search.top not in tried:
        yield from search.evaluate(search.top, "the float model")
    for _ in range(min(_CLIMBS, search.left - 1)):
        found = yield from climb(search)
        if found is None:
            break
        found = changed(found, (yield from steps_back(search, found)))
        if search.best is not None and search.menu.cost_of(found) >= search.best.cost:
            return
        yield from search.error(found)
        trial = yield from search.evaluate(found, "up to the requirement")
        if search.enough(trial.reached):
            return
    hopeless = math.inf  # the smallest error at which a look was enough
    while search.best is None and search.left:
        limit = min(search.too_much, hopeless)
        wanted = search.error_for(search.limit)
        error = min(wanted if wanted is not None else math.inf, limit / _STEP)
        assignment: Assignment | None = None
        if search.left > 1 and math.isfinite(error):
            assignment = yield from search.fitting(error, limit)
        tried = {t.assignment for t in search.trials}
        if assignment is None:
            if search.top in tried:
                return
            assignment = search.top
        elif (yield from search.hopeless(assignment)):
            hopeless = yield from search.error(assignment)
            continue
        yield from search.evaluate(assignment, "down to the requirement")
        if assignment == search.top:
            return


def _between(search: Search, *, started: bool = False) -> Strategy[Question, Any, None]:
    """Try what lies between the best assignment and what failed.

    Args:
        search: The search.
        started: Only until something better than the float model is found.
    """
    while search.pays:
        best, high = search.best, search.too_much
        assert best is not None
        if started and not best.reached.free:
            return
        if search.foretold:
            return
        if best.error is None or not math.isfinite(high):
            return
        low = max(best.error, 1e-6 * high)
        if low >= high:
            return
        wanted = search.error_for(search.limit) or math.sqrt(low * high)
        share = math.log(wanted / low) / math.log(high / low)
        if not best.reached.free and best.reached.loss <= 0:
            share = max(share, 0.5)  # nothing is lost yet, so the curve says too little
        share = min(max(share, _MARGIN), 1 - _MARGIN)
        error = low * (high / low) ** share
        assignment = yield from search.fitting(error, high)
        known = search.menu.cost_of(best.assignment)
        if assignment is None or search.menu.cost_of(assignment) > known - _GAP * search.gap:
            bolder = yield from search.cheaper_than(known - _GAP * search.gap, high)
            assignment = assignment if bolder is None else bolder
        if assignment is None or search.menu.cost_of(assignment) >= known:
            assignment = yield from search.cheaper_than(known, high)
        if assignment is None:
            return
        yield from search.evaluate(assignment, "back up")
