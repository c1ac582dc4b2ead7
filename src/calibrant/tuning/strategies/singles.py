"""Raise few layers of the cheapest assignment: those that bring back what was lost, as looks at each of them alone say it.

The error of the outputs says how much changes, and not whether that is for the worse: where the loss is of a handful of samples, one
layer may bring them back that loses little by itself. Greedy search finds it with an evaluation for each layer. Here a look does,
at the samples that tell trials apart (`Glance`):

    won(l) = look(the cheapest assignment) - look(the same with layer l raised)

A layer that is enough alone ends it, the cheapest one. Else layers are raised together, those first that win most for what they cost.
"""

from __future__ import annotations

import math
from typing import Any

from calibrant.tuning.driver import Strategy
from calibrant.tuning.menu import Assignment
from calibrant.tuning.questions import Glances, Question
from calibrant.tuning.strategies.assigning import Search, changed

__all__ = ["singles"]

#: Layers that are looked at alone, at most: those that lose most; and no more than together take as long as one evaluation.
MOST = 48


def singles(search: Search, below: float) -> Strategy[Question, Any, Assignment | None]:
    """Return the cheapest assignment with few layers raised that loses no more than allowed by looks; None where there is none.

    Args:
        search: What is known.
        below: What the assignment has to cost less than.
    """
    lowest, limit = search.lowest, search.limit
    base = search.menu.cost_of(lowest)
    lost: float | None = yield from search.look(lowest)
    if lost is None or search.proportional:
        return None
    most: float = yield Glances()
    tried = {t.assignment for t in search.trials}
    found: list[tuple[float, float, tuple[int, str]]] = []  # (cost, won, move)
    for move in _moves(search, below)[: min(MOST, int(most))]:
        assignment = changed(lowest, [move])
        loss: float | None = yield from search.look(assignment)
        if loss is None:
            return None
        found.append((search.menu.cost_of(assignment) - base, lost - loss, move))
    enough = [
        f for f in found if lost - f[1] <= limit + 1e-12 and changed(lowest, [f[2]]) not in tried
    ]
    if enough:
        return changed(lowest, [min(enough, key=lambda f: (f[0], -f[1], f[2]))[2]])
    taken: list[tuple[int, str]] = []
    winning = [f for f in found if f[1] > 0]
    for _, _, move in sorted(winning, key=lambda f: (-f[1] / max(f[0], 1e-300), f[2])):
        taken.append(move)
        assignment = changed(lowest, taken)
        if search.menu.cost_of(assignment) >= below:
            return None
        if len(taken) < 2 or assignment in tried:
            continue
        loss = yield from search.look(assignment)
        if loss is not None and loss <= limit + 1e-12:
            return assignment
    return None


def _moves(search: Search, below: float) -> list[tuple[int, str]]:
    """Return each layer with the next dearer precision in which it loses less, where that costs less than so much."""
    menu, lowest = search.menu, search.lowest
    found = []
    for layer, now in enumerate(lowest):
        errors, costs = search.errors[layer], menu.cost[layer]
        here = menu.precisions.index(now)
        dearer = [
            (costs[k], k)
            for k in range(len(menu.precisions))
            if costs[here] < costs[k] < math.inf and errors[k] < errors[here]
        ]
        if not dearer:
            continue
        move = (layer, menu.precisions[min(dearer)[1]])
        if menu.cost_of(changed(lowest, [move])) < below:
            found.append((errors[here], move))
    return [move for _, move in sorted(found, key=lambda f: (-f[0], f[1]))]
