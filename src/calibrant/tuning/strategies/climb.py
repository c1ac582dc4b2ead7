"""Go up from the cheapest assignment by looks at the samples that tell trials apart, until these say that it is enough."""

from __future__ import annotations

import math
from typing import Any

from calibrant.tuning.cheapest import nearest_below
from calibrant.tuning.driver import Strategy
from calibrant.tuning.menu import Assignment
from calibrant.tuning.questions import Question
from calibrant.tuning.strategies.assigning import Search
from calibrant.tuning.strategies.singles import singles

__all__ = ["climb"]

#: Costs are told apart down to this share of the cheapest one.
_FINEST = 2.0**-8


def climb(search: Search) -> Strategy[Question, Any, Assignment | None]:
    """Return the cheapest assignment that loses no more than allowed on the samples that tell trials apart.

    It is None where nobody knows, or where nothing new loses so little. Of each cost that is tried it is the assignment of least
    error. What is spent beside the cheapest assignment doubles, and is then halved between what was not enough and what was. Few layers
    that bring back what was lost may cost less (`strategies.singles`).
    """
    low = search.menu.cost_of(search.lowest)
    span = search.menu.cost_of(search.top) - low
    tried = {t.assignment for t in search.trials}
    known: dict[Assignment, bool] = {}
    best: Assignment | None = None
    finest = min(_FINEST * (low or span), span)
    more, least, most = finest, 0.0, math.inf
    while most - least > finest and least < span:
        found = nearest_below(search.menu, search.errors, low + more)
        enough = False
        if found is not None and found not in tried and not search.fails_for_sure(found):
            if found not in known:
                hopeless = yield from search.hopeless(found)
                if hopeless is None:
                    return None
                known[found] = not hopeless
            enough = known[found]
        if enough:
            best, most = found, more
        else:
            least = more
        more = 2 * more if most == math.inf else (least + most) / 2
    below = search.menu.cost_of(best) if best is not None else low + span
    few = yield from singles(search, below)
    return few if few is not None else best
