"""Before any layer is raised: moves that keep what a model costs.

Where the cheapest assignment misses the requirement, the recipe is made better without labels. The cheapest assignment is then
evaluated again, unless a look at the samples that tell trials apart says that it is hopeless. Where it loses more than before, what
gained without labels lost with them, and is taken back.
"""

from __future__ import annotations

from typing import Any

from calibrant.tuning.driver import Strategy
from calibrant.tuning.questions import Improve, Question
from calibrant.tuning.strategies.assigning import Search

__all__ = ["cheaper_moves"]


def cheaper_moves(search: Search) -> Strategy[Question, Any, None]:
    """Make the recipe better that the search stands on, where that can be done."""
    better: bool = yield Improve()
    if not better:
        return
    before = search.trials[0]
    search.on(improved=True)
    if search.left < 2 or (yield from search.hopeless(search.lowest)):
        return
    trial = yield from search.evaluate(search.lowest, "cheapest, with moves")
    if not trial.reached.met and trial.reached.loss > before.reached.loss:
        yield Improve(back=True)
        search.on(improved=False)
